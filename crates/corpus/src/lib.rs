//! The blueprint corpus: a folder of cases, each a blueprint with what is expected to become of it.
//!
//! [`results`] takes a case through parsing, deployment, modifications and evaluation; [`run`] says where that differs from what
//! is expected. Expectations are in a canonical form, in which random ids are renamed and what has no order is
//! sorted; [`canonical`] brings ours into the same form.

pub mod canonical;
mod case;
mod compare;
mod ids;
mod results;
mod run;
mod stored;

pub use case::{Case, Corpus, CorpusError};
pub use compare::{Difference, differences};
pub use results::{Results, results};
pub use run::{Outcome, Stage, run};
