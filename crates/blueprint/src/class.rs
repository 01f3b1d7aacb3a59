//! The kinds of faults, named as clients of the original know them (spec/dsl.md, section 19).

/// The kind of a fault.
///
/// Blueprint faults of the first four kinds carry a number; the others are told apart by their name alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// The text or the shape of an element.
    Format,
    /// What elements say about each other.
    Logic,
    /// A text with characters that are not allowed, or a display on the wrong type.
    InputType,
    /// Labels, schedules, inputs that violate their type.
    Parsing,
    /// Inputs without value or default.
    MissingRequiredInput,
    /// Values, or calls, for inputs that are not declared.
    UnknownInput,
    /// A path into an input that leads nowhere.
    InputEvaluation,
    /// A value that violates a constraint.
    Constraint,
    /// A call whose result cannot be computed.
    FunctionEvaluation,
    /// A call that the version of the language does not know, or with bad arguments.
    FunctionValidation,
    /// Secrets that do not exist.
    UnknownSecret,
    /// Secrets are used where none can be looked up.
    UnsupportedGetSecret,
    /// Calls that lead to calls without end.
    EvaluationRecursionLimit,
    /// `get_sys` of an unknown entity.
    UnknownSysEntity,
    /// `get_sys` of an unknown property.
    UnknownSysProperty,
    /// A `plugin:` or `blueprint:` import that nothing satisfies.
    InvalidBlueprintImport,
    /// `connection_type` is neither `all_to_all` nor `all_to_one`.
    IllegalConnectedToConnectionType,
    /// A relationship outside the three known families.
    UnsupportedRelationship,
    /// `all_to_one` with several targets in use.
    IllegalAllToOneState,
    /// `all_to_one` within a scaling group.
    UnsupportedAllToOneInGroup,
    /// A bad time of a schedule.
    NonRecoverable,
    /// A value of a wrong kind, or a bad argument.
    Value,
    /// A name that is not there.
    Key,
    /// A type that does not fit.
    Type,
    /// A position beyond the end.
    Index,
    /// The text holds characters that YAML does not allow.
    Reader,
    /// The text is no YAML: its words and indentation.
    Scanner,
    /// The text is no YAML: anchors, aliases, several documents.
    Composer,
    /// The text is YAML that makes no values: tags, keys, merges.
    Constructor,
    /// An element lacks a part that is looked for.
    ElementMatch,
    /// Something in the model that does not exist.
    NotFound,
    /// The text is larger, deeper or wider than this implementation takes.
    Limit,
}

impl Class {
    /// The name that clients of the original know.
    pub fn name(self) -> &'static str {
        match self {
            Self::Format => "DSLParsingFormatException",
            Self::Logic => "DSLParsingLogicException",
            Self::InputType => "DSLParsingInputTypeException",
            Self::Parsing => "DSLParsingException",
            Self::MissingRequiredInput => "MissingRequiredInputError",
            Self::UnknownInput => "UnknownInputError",
            Self::InputEvaluation => "InputEvaluationError",
            Self::Constraint => "ConstraintException",
            Self::FunctionEvaluation => "FunctionEvaluationError",
            Self::FunctionValidation => "FunctionValidationError",
            Self::UnknownSecret => "UnknownSecretError",
            Self::UnsupportedGetSecret => "UnsupportedGetSecretError",
            Self::EvaluationRecursionLimit => "EvaluationRecursionLimitReached",
            Self::UnknownSysEntity => "UnknownSysEntityError",
            Self::UnknownSysProperty => "UnknownSysPropertyError",
            Self::InvalidBlueprintImport => "InvalidBlueprintImport",
            Self::IllegalConnectedToConnectionType => "IllegalConnectedToConnectionType",
            Self::UnsupportedRelationship => "UnsupportedRelationship",
            Self::IllegalAllToOneState => "IllegalAllToOneState",
            Self::UnsupportedAllToOneInGroup => "UnsupportedAllToOneInGroup",
            Self::NonRecoverable => "NonRecoverableError",
            Self::Value => "ValueError",
            Self::Key => "KeyError",
            Self::Type => "TypeError",
            Self::Index => "IndexError",
            Self::Reader => "ReaderError",
            Self::Scanner => "ScannerError",
            Self::Composer => "ComposerError",
            Self::Constructor => "ConstructorError",
            Self::ElementMatch => "DSLParsingElementMatchException",
            Self::NotFound => "NotFound",
            Self::Limit => "LimitExceeded",
        }
    }
}

/// The name that clients of the original know.
impl std::fmt::Display for Class {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
