//! Telling calls of intrinsic functions from plain mappings, without a look at their arguments.

use crate::Value;

/// The intrinsic functions (spec/dsl.md, section 14).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FunctionName {
    /// `get_input`
    GetInput,
    /// `get_property`
    GetProperty,
    /// `get_attribute`
    GetAttribute,
    /// `get_attributes_list`
    GetAttributesList,
    /// `get_attributes_dict`
    GetAttributesDict,
    /// `get_secret`
    GetSecret,
    /// `get_capability`
    GetCapability,
    /// `get_group_capability`
    GetGroupCapability,
    /// `get_environment_capability`
    GetEnvironmentCapability,
    /// `get_label`
    GetLabel,
    /// `get_sys`
    GetSys,
    /// `get_consumers`
    GetConsumers,
    /// `concat`
    Concat,
    /// `merge`
    Merge,
    /// `string_find`
    StringFind,
    /// `string_replace`
    StringReplace,
    /// `string_split`
    StringSplit,
    /// `string_lower`
    StringLower,
    /// `string_upper`
    StringUpper,
}

impl FunctionName {
    /// Every function.
    pub const ALL: [Self; 19] = [
        Self::GetInput,
        Self::GetProperty,
        Self::GetAttribute,
        Self::GetAttributesList,
        Self::GetAttributesDict,
        Self::GetSecret,
        Self::GetCapability,
        Self::GetGroupCapability,
        Self::GetEnvironmentCapability,
        Self::GetLabel,
        Self::GetSys,
        Self::GetConsumers,
        Self::Concat,
        Self::Merge,
        Self::StringFind,
        Self::StringReplace,
        Self::StringSplit,
        Self::StringLower,
        Self::StringUpper,
    ];

    /// As blueprints write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::GetInput => "get_input",
            Self::GetProperty => "get_property",
            Self::GetAttribute => "get_attribute",
            Self::GetAttributesList => "get_attributes_list",
            Self::GetAttributesDict => "get_attributes_dict",
            Self::GetSecret => "get_secret",
            Self::GetCapability => "get_capability",
            Self::GetGroupCapability => "get_group_capability",
            Self::GetEnvironmentCapability => "get_environment_capability",
            Self::GetLabel => "get_label",
            Self::GetSys => "get_sys",
            Self::GetConsumers => "get_consumers",
            Self::Concat => "concat",
            Self::Merge => "merge",
            Self::StringFind => "string_find",
            Self::StringReplace => "string_replace",
            Self::StringSplit => "string_split",
            Self::StringLower => "string_lower",
            Self::StringUpper => "string_upper",
        }
    }

    /// The function of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        // Most keys of most mappings are none of these: look at the first letter before comparing any text.
        match name.as_bytes().first()? {
            b'g' | b'c' | b'm' | b's' => Self::ALL.into_iter().find(|function| function.as_str() == name),
            _ => None,
        }
    }

    /// Whether it is evaluated when the deployment plan is made. The others need a running deployment.
    pub fn is_hybrid(self) -> bool {
        matches!(
            self,
            Self::GetInput
                | Self::GetProperty
                | Self::Concat
                | Self::Merge
                | Self::StringFind
                | Self::StringReplace
                | Self::StringSplit
                | Self::StringLower
                | Self::StringUpper
        )
    }
}

impl std::fmt::Display for FunctionName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A mapping that is a call: its argument is not checked yet.
#[derive(Debug, Clone, Copy)]
pub struct Call<'v> {
    /// The function.
    pub name: FunctionName,
    /// What stands behind the function's name.
    pub argument: &'v Value,
    /// What stands behind `type`, if it is there.
    pub return_type: Option<&'v Value>,
}

/// Recognises a call: a mapping whose only key, besides an optional `type`, is a function's name. Of two function keys the
/// later one counts.
pub fn call(value: &Value) -> Option<Call<'_>> {
    let Value::Map(map) = value else { return None };
    if !(1..=2).contains(&map.len()) {
        return None;
    }
    let mut found = None;
    let mut return_type = None;
    for (key, argument) in map.iter() {
        if &**key == "type" {
            return_type = Some(argument);
        } else {
            found = Some((FunctionName::from_name(key)?, argument));
        }
    }
    let (name, argument) = found?;
    Some(Call {
        name,
        argument,
        return_type,
    })
}

/// Whether the value is a call.
pub fn is_call(value: &Value) -> bool {
    call(value).is_some()
}

/// Whether there is a call anywhere in the value.
pub fn holds_calls(value: &Value) -> bool {
    match value {
        Value::List(items) => items.iter().any(holds_calls),
        Value::Map(map) => is_call(value) || map.values().any(holds_calls),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_call_has_one_function_and_perhaps_a_type() {
        let name = |json| call(&Value::from(json)).map(|call| call.name);
        assert_eq!(name(json!({"get_input": "a"})), Some(FunctionName::GetInput));
        assert_eq!(
            name(json!({"get_input": "a", "type": "string"})),
            Some(FunctionName::GetInput)
        );
        assert_eq!(name(json!({"type": "string"})), None);
        assert_eq!(name(json!({"get_input": "a", "other": 1})), None);
        assert_eq!(name(json!({"get_input": "a", "type": 1, "concat": []})), None);
        assert_eq!(name(json!({})), None);
        assert_eq!(name(json!(["get_input"])), None);
    }

    #[test]
    fn of_two_functions_the_later_counts() {
        let mut map = crate::Map::new();
        map.insert("get_input", "a");
        map.insert("concat", Value::from(json!([])));
        let value = Value::Map(map);
        assert_eq!(call(&value).map(|call| call.name), Some(FunctionName::Concat));
    }

    #[test]
    fn every_name_leads_back() {
        for function in FunctionName::ALL {
            assert_eq!(FunctionName::from_name(function.as_str()), Some(function));
        }
    }
}
