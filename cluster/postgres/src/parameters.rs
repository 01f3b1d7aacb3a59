//! PostgreSQL's parameters that an operator may set for the whole cluster. Pure.
//!
//! Five of them bind standbys: a standby whose value is below that which its primary had does not start. They are kept in order by
//! two rules that hold at any moment, whoever starts when: a standby never goes below what its control file says, and a primary
//! never goes above what its own says. So a higher value comes with a standby that was restarted and is then made primary, and a
//! lower one with a primary that is restarted in place.

use std::collections::BTreeMap;

use conclave_catalog::ClusterState;
use serde::Serialize;

/// Each is a cluster setting of its own: this before its name, and its value as a string, or null when nobody sets it any more.
pub const PARAMETER_SETTING: &str = "postgres.parameter.";

/// A parameter that may be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameter {
    /// PostgreSQL's name for it.
    pub name: &'static str,
    /// Its value when nobody sets it, for those that bind standbys.
    pub bound: Option<u64>,
    /// How `pg_controldata` names it.
    control: &'static str,
    /// The least that this program itself needs.
    least: u64,
}

const fn bound(name: &'static str, value: u64, control: &'static str, least: u64) -> Parameter {
    Parameter {
        name,
        bound: Some(value),
        control,
        least,
    }
}

const fn free(name: &'static str) -> Parameter {
    Parameter {
        name,
        bound: None,
        control: "",
        least: 0,
    }
}

/// All that may be set.
pub const PARAMETERS: [Parameter; 25] = [
    bound("max_connections", 200, "max_connections setting", 100),
    bound("max_locks_per_transaction", 64, "max_locks_per_xact setting", 64),
    bound("max_prepared_transactions", 0, "max_prepared_xacts setting", 0),
    bound("max_wal_senders", 20, "max_wal_senders setting", 10),
    bound("max_worker_processes", 8, "max_worker_processes setting", 8),
    free("autovacuum_max_workers"),
    free("autovacuum_naptime"),
    free("autovacuum_vacuum_scale_factor"),
    free("checkpoint_timeout"),
    free("effective_cache_size"),
    free("effective_io_concurrency"),
    free("huge_pages"),
    free("jit"),
    free("log_autovacuum_min_duration"),
    free("log_checkpoints"),
    free("log_lock_waits"),
    free("log_min_duration_statement"),
    free("maintenance_work_mem"),
    free("max_slot_wal_keep_size"),
    free("max_wal_size"),
    free("min_wal_size"),
    free("random_page_cost"),
    free("shared_buffers"),
    free("wal_keep_size"),
    free("work_mem"),
];

/// Why a parameter cannot be set so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParameterError {
    /// It is none, or one that the driver needs as it is.
    #[error("{0} cannot be set here: it is unknown, or the driver needs it as it is. There are: {list}", list = names())]
    NotSettable(String),
    /// The value cannot be one.
    #[error("{name} = {value:?}: {reason}")]
    Value {
        /// Which parameter.
        name: String,
        /// As given.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
}

fn names() -> String {
    PARAMETERS.map(|parameter| parameter.name).join(", ")
}

/// The parameter of that name.
fn find(name: &str) -> Option<&'static Parameter> {
    PARAMETERS.iter().find(|parameter| parameter.name == name)
}

/// Checks a name, and of a value what can be known without PostgreSQL: what passes can do no harm to the file that it is written
/// to. Whether PostgreSQL takes it is PostgreSQL's to say.
///
/// # Errors
/// When it cannot be set, or not to that.
pub fn check(name: &str, value: &str) -> Result<(), ParameterError> {
    let Some(parameter) = find(name) else {
        return Err(ParameterError::NotSettable(name.to_owned()));
    };
    let refused = |reason: String| {
        Err(ParameterError::Value {
            name: name.to_owned(),
            value: value.to_owned(),
            reason,
        })
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if value.is_empty() || value.len() > 40 || !value.chars().all(plain) {
        return refused("a number with a unit, or a word, is expected".into());
    }
    if parameter.bound.is_some() {
        match value.parse::<u64>() {
            Ok(number) if number < parameter.least => {
                return refused(format!("the managers themselves need {}", parameter.least));
            }
            Ok(_) => {}
            Err(_) => return refused("a whole number is expected".into()),
        }
    }
    if name == "max_slot_wal_keep_size" && value.starts_with('-') {
        return refused("without a limit a dead standby's slot fills the disk".into());
    }
    Ok(())
}

/// What a server is about to be started as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// The only node's: there is no standby to think of.
    Alone,
    /// With standbys that follow it.
    Primary,
    /// Following a primary.
    Standby,
}

/// What is wanted for the whole cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Parameters(pub BTreeMap<String, String>);

impl Parameters {
    /// Those that are agreed on. What does not pass [`check`] was not set by this program, and is left out.
    pub fn of(state: &ClusterState) -> Self {
        let pairs = state.settings().iter().filter_map(|(key, value)| {
            let (name, value) = (key.strip_prefix(PARAMETER_SETTING)?, value.as_str()?);
            check(name, value).ok().map(|()| (name.to_owned(), value.to_owned()))
        });
        Self(pairs.collect())
    }

    /// The wanted value of one that binds standbys.
    fn wanted(&self, parameter: &Parameter, default: u64) -> u64 {
        let set = self.0.get(parameter.name).and_then(|value| value.parse().ok());
        set.unwrap_or(default)
    }

    /// What to start a server with. `control`: what its control file says, where there is one.
    pub(crate) fn effective(&self, place: Place, control: &BTreeMap<&'static str, u64>) -> BTreeMap<String, String> {
        let mut effective = self.0.clone();
        for (parameter, default) in bounds() {
            let wanted = self.wanted(parameter, default);
            let known = control.get(parameter.name).copied();
            let value = match (place, known) {
                (Place::Standby, Some(known)) => wanted.max(known),
                (Place::Primary, Some(known)) => wanted.min(known),
                _ => wanted,
            };
            effective.insert(parameter.name.to_owned(), value.to_string());
        }
        effective
    }

    /// Those that bind standbys and are not yet as wanted, with the running value: `running` is what a server was started with.
    pub fn pending(&self, running: &BTreeMap<String, u64>) -> Vec<Pending> {
        let differs = |(parameter, default): (&'static Parameter, u64)| {
            let (wanted, running) = (self.wanted(parameter, default), *running.get(parameter.name)?);
            (wanted != running).then_some(Pending {
                name: parameter.name,
                wanted,
                running,
            })
        };
        bounds().filter_map(differs).collect()
    }
}

/// A parameter whose wanted value needs a restart to come into force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pending {
    /// Its name.
    pub name: &'static str,
    /// What is wanted.
    pub wanted: u64,
    /// What the server was started with.
    pub running: u64,
}

fn bounds() -> impl Iterator<Item = (&'static Parameter, u64)> {
    let with_default = |parameter: &'static Parameter| Some((parameter, parameter.bound?));
    PARAMETERS.iter().filter_map(with_default)
}

/// The names of those that bind standbys.
pub(crate) fn bound_names() -> Vec<&'static str> {
    bounds().map(|(parameter, _)| parameter.name).collect()
}

/// What the text of `pg_controldata` says of those that bind standbys.
pub(crate) fn read_control(text: &str) -> BTreeMap<&'static str, u64> {
    let value = |parameter: &Parameter| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(parameter.control)?.strip_prefix(':'))?;
        line.trim().parse().ok()
    };
    bounds()
        .filter_map(|(parameter, _)| Some((parameter.name, value(parameter)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(pairs: &[(&str, &str)]) -> Parameters {
        Parameters(
            pairs
                .iter()
                .map(|(name, value)| ((*name).into(), (*value).into()))
                .collect(),
        )
    }

    #[test]
    fn what_the_driver_needs_cannot_be_set_and_nothing_breaks_the_file() {
        assert!(check("max_connections", "300").is_ok());
        assert!(check("work_mem", "16MB").is_ok());
        for (name, value) in [
            ("fsync", "off"),
            ("synchronous_commit", "off"),
            ("max_connections", "10"),
            ("max_connections", "many"),
            ("work_mem", "1'\nfsync=off"),
            ("work_mem", ""),
            ("max_slot_wal_keep_size", "-1"),
        ] {
            assert!(check(name, value).is_err(), "{name} = {value}");
        }
    }

    #[test]
    fn the_control_file_is_read() {
        let text = "max_connections setting:              200\nmax_prepared_xacts setting:           0\n";
        let read = read_control(text);
        assert_eq!(
            read,
            BTreeMap::from([("max_connections", 200), ("max_prepared_transactions", 0)])
        );
    }

    #[test]
    fn a_standby_never_has_less_than_its_primary() {
        let value = |wanted: &str, place, known: u64| {
            let control = BTreeMap::from([("max_connections", known)]);
            parameters(&[("max_connections", wanted)]).effective(place, &control)["max_connections"].clone()
        };
        assert_eq!(value("300", Place::Standby, 200), "300");
        assert_eq!(
            value("300", Place::Primary, 200),
            "200",
            "it comes with a standby that takes over"
        );
        assert_eq!(value("100", Place::Standby, 200), "200", "the primary has to go first");
        assert_eq!(value("100", Place::Primary, 200), "100");
        assert_eq!(value("300", Place::Alone, 200), "300");
    }

    proptest::proptest! {
        /// Nodes are restarted in any order, in place or with the primary moving, while an operator changes his mind: a standby always
        /// has at least what the primary runs with. (A standby's control file says what its primary was last started with.)
        #[test]
        fn any_order_of_restarts_keeps_standbys_alive(
            steps in proptest::collection::vec((0..3usize, 0..3u8, 100..400u64), 1..60),
        ) {
            let mut wanted = 200;
            let mut running = [200u64; 3];
            let mut primary = 0;
            for (node, action, number) in steps {
                match action {
                    0 => wanted = number,
                    1 => {
                        let place = if node == primary { Place::Primary } else { Place::Standby };
                        let known = if node == primary { running[node] } else { running[primary] };
                        let control = BTreeMap::from([("max_connections", known)]);
                        let parameters = parameters(&[("max_connections", &wanted.to_string())]);
                        running[node] = parameters.effective(place, &control)["max_connections"].parse().unwrap();
                    }
                    // Whoever is made primary runs on as it is; the others follow what it says then.
                    _ => {
                        let enough = running.iter().all(|value| *value >= running[node]);
                        // The cluster's restart makes primary only whom all others suffice for, or restarts those first.
                        if enough {
                            primary = node;
                        }
                    }
                }
                for value in running {
                    proptest::prop_assert!(value >= running[primary], "{running:?}, primary {primary}");
                }
            }
        }
    }
}
