//! The way in: from the main file of a blueprint to its plan, or to everything that is wrong with it.

use jiff::civil::Date;

use crate::build::{Settings, Today, build, check_shapes};
use crate::diagnostic::{Diagnostic, Diagnostics, Report};
use crate::document::{Budget, Loaded, Loader};
use crate::plan::Plan;
use crate::resolver::{Import, Resolver};
use crate::suspicion::nearly_calls;
use crate::{Class, Fault};

/// How a blueprint is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Whether what the version of the language does not have is refused.
    pub validate_version: bool,
    /// Year, month and day that times of schedules without a date belong to.
    pub today: Option<(i16, i8, i8)>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            validate_version: true,
            today: None,
        }
    }
}

/// Makes the plan of a blueprint (spec/dsl.md, section 3).
///
/// # Errors
/// All that is wrong with the blueprint, the first fault first. Faults that only follow from others are left out.
pub fn parse(main: &str, resolver: &dyn Resolver) -> Result<Plan, Diagnostics> {
    parse_with(main, resolver, &Options::default())
}

/// The same with options.
///
/// # Errors
/// As [`parse`].
pub fn parse_with(main: &str, resolver: &dyn Resolver, options: &Options) -> Result<Plan, Diagnostics> {
    read(main, resolver, options).0
}

/// What there is to say of a blueprint to those who write it.
#[derive(Debug)]
pub struct Validation {
    /// As of [`parse`].
    pub plan: Result<Plan, Diagnostics>,
    /// What is allowed and hardly meant: a mapping that would be a call but for a letter.
    pub warnings: Vec<Diagnostic>,
}

/// Makes the plan, and looks for what is hardly meant as well.
pub fn validate(main: &str, resolver: &dyn Resolver) -> Validation {
    let (plan, loaded, report) = read(main, resolver, &Options::default());
    let warnings = loaded.map_or_else(Vec::new, |loaded| {
        report.warnings(nearly_calls(&loaded.document).into_iter().map(|nearly| {
            let message = format!("'{}' is no function, and stays the value that it is", nearly.name);
            (Fault::new(Class::Format, message, ""), nearly.place, Some(nearly.meant))
        }))
    });
    Validation { plan, warnings }
}

fn read(main: &str, resolver: &dyn Resolver, options: &Options) -> (Result<Plan, Diagnostics>, Option<Loaded>, Report) {
    let mut report = Report::default();
    let location = resolver
        .locate(Import::Beside { from: "", path: main })
        .unwrap_or_else(|| main.to_owned());
    let today = options
        .today
        .and_then(|(year, month, day)| Date::new(year, month, day).ok())
        .map_or_else(Today::default, |date| Today {
            date,
            ..Today::default()
        });
    let check_imported = |loaded: &Loaded, report: &mut Report| {
        let faults = report.count();
        if !loaded.is_partial {
            let settings = Settings {
                resolver,
                checks_version: false,
                checks_calls: false,
                today: today.clone(),
            };
            build(loaded, &settings, report);
        }
        report.count() == faults && !loaded.is_partial
    };
    let loaded = Loader {
        resolver,
        report: &mut report,
        checks_version: options.validate_version,
        is_imported: false,
        budget: &mut Budget::default(),
        check_imported: &check_imported,
    }
    .load(&location);
    let Some(loaded) = loaded else {
        return (Err(report.finish()), None, report);
    };
    let settings = Settings {
        resolver,
        checks_version: options.validate_version,
        checks_calls: true,
        today: today.clone(),
    };
    if loaded.is_partial {
        check_shapes(&loaded, &settings, &mut report);
        return (Err(report.finish()), Some(loaded), report);
    }
    let plan = build(&loaded, &settings, &mut report);
    let result = if report.is_clean() {
        Ok(plan)
    } else {
        Err(report.finish())
    };
    (result, Some(loaded), report)
}

#[cfg(test)]
mod tests {
    use crate::{FolderResolver, parse};

    #[test]
    fn an_import_that_is_missing_hides_no_fault_of_shape() {
        let folder = tempfile::tempdir().unwrap();
        let text = "tosca_definitions_version: cloudify_dsl_1_3\nimports: [missing.yaml]\ninputs: 3\n\
                    node_templates:\n  a: {type: of.the.missing.File, propertys: {}}\n";
        std::fs::write(folder.path().join("blueprint.yaml"), text).unwrap();
        let faults = parse("blueprint.yaml", &FolderResolver::new(folder.path())).unwrap_err();
        let lines: Vec<u32> = faults.0.iter().map(|fault| fault.line).collect();
        assert_eq!((faults.first().code, faults.first().line), (Some(13), 2), "{faults}");
        assert_eq!(lines, [2, 5, 3], "{faults}");
    }
}
