//! Puts elements into the order of their dependencies and finds circles.

/// Elements after those that they depend on, and the circles that there are.
pub(super) struct Ordered {
    /// All elements that are on no circle and depend on none that is.
    pub(super) order: Vec<usize>,
    /// Each as the elements along it, the first one not repeated.
    pub(super) circles: Vec<Vec<usize>>,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    New,
    Open,
    Done,
    /// On a circle, or dependent on one.
    Lost,
}

/// Orders `0..edges.len()`, where `edges[n]` are the elements that `n` depends on. Takes time in proportion to elements and edges,
/// and no stack however long a chain is. Later elements are visited before earlier ones, as the original does.
pub(super) fn order(edges: &[Vec<usize>]) -> Ordered {
    let mut states = vec![State::New; edges.len()];
    let mut result = Ordered {
        order: Vec::with_capacity(edges.len()),
        circles: Vec::new(),
    };
    let mut path: Vec<(usize, usize)> = Vec::new();
    for start in (0..edges.len()).rev() {
        if states[start] != State::New {
            continue;
        }
        states[start] = State::Open;
        path.push((start, 0));
        while let Some((node, next)) = path.last_mut() {
            let node = *node;
            let left = edges[node].len().checked_sub(*next + 1);
            let Some(target) = left.and_then(|left| edges[node].get(left)).copied() else {
                if states[node] == State::Open {
                    let is_lost = edges[node].iter().any(|target| states[*target] == State::Lost);
                    states[node] = if is_lost { State::Lost } else { State::Done };
                    if !is_lost {
                        result.order.push(node);
                    }
                }
                path.pop();
                continue;
            };
            *next += 1;
            match states[target] {
                State::New => {
                    states[target] = State::Open;
                    path.push((target, 0));
                }
                State::Open => {
                    let from = path.iter().position(|(node, _)| *node == target).unwrap_or(0);
                    let circle: Vec<usize> = path[from..].iter().map(|(node, _)| *node).collect();
                    circle.iter().for_each(|node| states[*node] = State::Lost);
                    result.circles.push(circle);
                }
                State::Done | State::Lost => {}
            }
        }
    }
    result
}

/// A circle as messages show it: `a --> b --> a`.
pub(super) fn circle_text<'n>(circle: &[usize], name: impl Fn(usize) -> &'n str) -> String {
    let names: Vec<&str> = circle.iter().chain(circle.first()).map(|node| name(*node)).collect();
    format!("Parsing failed. Circular dependency detected: {}", names.join(" --> "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_comes_first() {
        let ordered = order(&[vec![1, 2], vec![2], vec![], vec![0]]);
        assert_eq!(ordered.order, [2, 1, 0, 3]);
        assert_eq!(order(&[vec![], vec![], vec![0, 1]]).order, [1, 0, 2]);
        assert!(ordered.circles.is_empty());
    }

    #[test]
    fn circles_are_found_and_what_depends_on_them_is_left_out() {
        let ordered = order(&[vec![1], vec![2], vec![1], vec![3], vec![]]);
        assert_eq!(ordered.circles, [vec![3], vec![2, 1]]);
        assert_eq!(ordered.order, [4]);
    }

    #[test]
    fn long_chains_take_no_stack() {
        let edges: Vec<Vec<usize>> = (0..200_000).map(|n| if n > 0 { vec![n - 1] } else { vec![] }).collect();
        assert_eq!(order(&edges).order.len(), 200_000);
    }
}
