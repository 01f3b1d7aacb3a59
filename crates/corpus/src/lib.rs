//! The blueprint corpus: a folder of cases, each a blueprint with what is expected to become of it.
//!
//! [`run`] takes a case through all that it has expectations for (plan, deployment plan, modifications, evaluation) and says
//! where the results differ. Expectations are in a canonical form, in which random ids are renamed and what has no order is
//! sorted; [`canonical`] brings ours into the same form.

pub mod canonical;
mod case;
mod compare;
mod ids;
mod run;
mod stored;

pub use case::{Case, Corpus, CorpusError};
pub use compare::{Difference, differences};
pub use run::{Outcome, Stage, run};
