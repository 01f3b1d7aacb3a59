//! Which manager an execution belongs to.

use conclave_types::ExecutionId;
use hashring::HashRing;

/// The ring has no virtual nodes of its own: each manager stands on it this often, so that shares are even.
const PLACES: u32 = 128;

/// Whether `me` is the ring's choice for `id` among `live`.
pub(crate) fn is_mine(id: ExecutionId, me: &str, live: &[String]) -> bool {
    let mut ring: HashRing<(String, u32)> = HashRing::new();
    for manager in live {
        ring.batch_add((0..PLACES).map(|place| (manager.clone(), place)).collect());
    }
    ring.get(&id.0.as_u128()).is_some_and(|(manager, _)| manager == me)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn every_execution_has_one_home_and_shares_are_even() {
        let live: Vec<String> = (1..=3).map(|n| format!("node{n}")).collect();
        let mut shares = [0; 3];
        for n in 0..3000u128 {
            let id = ExecutionId(Uuid::from_u128(n * 7919));
            let homes: Vec<usize> = (0..3).filter(|index| is_mine(id, &live[*index], &live)).collect();
            assert_eq!(homes.len(), 1);
            shares[homes[0]] += 1;
        }
        assert!(shares.iter().all(|share| (600..1500).contains(share)), "{shares:?}");
    }

    #[test]
    fn only_the_executions_of_a_dead_manager_move() {
        let three: Vec<String> = (1..=3).map(|n| format!("node{n}")).collect();
        let two = three[..2].to_vec();
        for n in 0..500u128 {
            let id = ExecutionId(Uuid::from_u128(n * 104_729));
            for me in &two {
                assert!(
                    !is_mine(id, me, &three) || is_mine(id, me, &two),
                    "a live manager keeps its own"
                );
            }
        }
    }
}
