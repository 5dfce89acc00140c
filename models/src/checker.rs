//! Explores every reachable state of a model, breadth first.
//!
//! ```text
//!   initial ──actions──► unseen states ──► queue ──► …       until nothing is unseen
//!      each state: which invariants does it break?           the first time of each is its shortest trace
//!      at the end: from which states is `done` out of reach? those break the model's liveness
//! ```
//!
//! A thread that spins or sleeps has no action. Hence a deadlock, a livelock and a thread that sleeps for ever
//! are one thing: a state from which no sequence of actions leads to a state that is [`Model::done`].
//! Where `done` is reachable from everywhere, it is reached by every schedule that does not starve an action.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::Hash;

/// A protocol: where it starts, what can happen, and what must never be seen.
pub trait Model {
    /// Everything that later behaviour depends on. Small: millions of them are kept.
    type State: Clone + Eq + Hash;
    /// What took one state to the next, for people to read.
    type Action: Copy + fmt::Display;

    /// The name of the invariant that is broken where `done` is out of reach.
    const LIVENESS: &'static str;

    /// Where the protocol starts.
    fn initial(&self) -> Self::State;
    /// Appends every action that can happen in `state`, with the state that it leads to.
    fn actions(&self, state: &Self::State, out: &mut Vec<(Self::Action, Self::State)>);
    /// Appends the name of every invariant that `state` breaks.
    fn broken(&self, state: &Self::State, out: &mut Vec<&'static str>);
    /// Whether all that should happen has happened.
    fn done(&self, state: &Self::State) -> bool;
}

/// What [`explore`] found.
#[derive(Debug)]
pub struct Report {
    /// Distinct states reached.
    pub states: usize,
    /// Actions taken, over all states.
    pub transitions: usize,
    /// Actions from the start to the farthest state.
    pub depth: usize,
    /// For each invariant that breaks, a shortest sequence of actions to where it does.
    pub broken: BTreeMap<&'static str, Trace>,
}

impl Report {
    /// The names of the invariants that break, in order.
    #[must_use]
    pub fn broken_names(&self) -> Vec<&'static str> {
        self.broken.keys().copied().collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} states, {} transitions, depth {}", self.states, self.transitions, self.depth)?;
        for (invariant, trace) in &self.broken {
            write!(f, "{invariant}\n{trace}")?;
        }
        Ok(())
    }
}

/// The actions from the initial state to some state, rendered.
#[derive(Debug, PartialEq, Eq)]
pub struct Trace(pub Vec<String>);

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, action) in self.0.iter().enumerate() {
            writeln!(f, "  {:>2}. {action}", index + 1)?;
        }
        Ok(())
    }
}

/// The states found so far and how each was first reached.
struct Graph<M: Model> {
    states: Vec<M::State>,
    index: HashMap<M::State, u32>,
    /// For each state but the first, the state before it and the action between.
    reached_by: Vec<Option<(u32, M::Action)>>,
    edges: Vec<(u32, u32)>,
}

impl<M: Model> Graph<M> {
    /// The number of `state`, which is given one if it has none.
    fn number(&mut self, state: M::State, reached_by: Option<(u32, M::Action)>) -> u32 {
        if let Some(&known) = self.index.get(&state) {
            return known;
        }
        let number = u32::try_from(self.states.len()).expect("a model of four billion states is no model");
        self.index.insert(state.clone(), number);
        self.states.push(state);
        self.reached_by.push(reached_by);
        number
    }

    fn trace(&self, to: u32) -> Trace {
        let mut actions = Vec::new();
        let mut at = to;
        while let Some((before, action)) = self.reached_by[at as usize] {
            actions.push(action.to_string());
            at = before;
        }
        actions.reverse();
        Trace(actions)
    }

    /// A state from which no state that is `done` can be reached: the first that has no action at all, which
    /// shows best what everybody waits for, or else the first.
    fn first_stuck(&self, model: &M) -> Option<u32> {
        let mut before: Vec<Vec<u32>> = vec![Vec::new(); self.states.len()];
        let mut ends = vec![true; self.states.len()];
        for &(from, to) in &self.edges {
            before[to as usize].push(from);
            ends[from as usize] = false;
        }
        let mut reaches: Vec<bool> = self.states.iter().map(|state| model.done(state)).collect();
        let mut work: Vec<u32> = (0u32..).zip(&reaches).filter(|(_, done)| **done).map(|(n, _)| n).collect();
        while let Some(to) = work.pop() {
            for &from in &before[to as usize] {
                if !reaches[from as usize] {
                    reaches[from as usize] = true;
                    work.push(from);
                }
            }
        }
        let stuck = || (0u32..).zip(&reaches).filter(|(_, reaches)| !**reaches).map(|(n, _)| n);
        stuck().find(|&n| ends[n as usize]).or_else(|| stuck().next())
    }
}

/// Visits every reachable state of `model`.
///
/// States that break an invariant are explored further, so that one report names everything that breaks.
pub fn explore<M: Model>(model: &M) -> Report {
    let mut graph =
        Graph::<M> { states: Vec::new(), index: HashMap::new(), reached_by: Vec::new(), edges: Vec::new() };
    graph.number(model.initial(), None);

    let mut broken = BTreeMap::new();
    let (mut names, mut successors) = (Vec::new(), Vec::new());
    let mut next = 0;
    while let Some(state) = graph.states.get(next).cloned() {
        let here = u32::try_from(next).expect("numbered above");
        model.broken(&state, &mut names);
        for name in names.drain(..) {
            broken.entry(name).or_insert_with(|| graph.trace(here));
        }
        model.actions(&state, &mut successors);
        for (action, successor) in successors.drain(..) {
            let to = graph.number(successor, Some((here, action)));
            graph.edges.push((here, to));
        }
        next += 1;
    }
    if let Some(stuck) = graph.first_stuck(model) {
        broken.insert(M::LIVENESS, graph.trace(stuck));
    }
    let last = u32::try_from(graph.states.len() - 1).expect("numbered above");
    Report {
        states: graph.states.len(),
        transitions: graph.edges.len(),
        depth: graph.trace(last).0.len(),
        broken,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two counters that each go up to `top`; a state in which both are `forbidden` is wrong; one in `trap` never ends.
    struct Counters {
        top: u8,
        forbidden: Option<u8>,
        trap: Option<u8>,
    }

    impl Model for Counters {
        type State = [u8; 2];
        type Action = char;
        const LIVENESS: &'static str = "ends";

        fn initial(&self) -> [u8; 2] {
            [0, 0]
        }

        fn actions(&self, state: &[u8; 2], out: &mut Vec<(char, [u8; 2])>) {
            for (which, name) in [(0, 'a'), (1, 'b')] {
                if state[which] < self.top && Some(state[which]) != self.trap {
                    let mut next = *state;
                    next[which] += 1;
                    out.push((name, next));
                }
            }
        }

        fn broken(&self, state: &[u8; 2], out: &mut Vec<&'static str>) {
            if self.forbidden.is_some_and(|value| *state == [value; 2]) {
                out.push("never equal");
            }
        }

        fn done(&self, state: &[u8; 2]) -> bool {
            *state == [self.top; 2]
        }
    }

    #[test]
    fn visits_every_state_once() {
        let report = explore(&Counters { top: 9, forbidden: None, trap: None });
        assert_eq!((report.states, report.transitions, report.depth), (100, 180, 18));
        assert!(report.broken.is_empty());
    }

    #[test]
    fn gives_the_shortest_trace_to_a_broken_invariant() {
        let report = explore(&Counters { top: 9, forbidden: Some(2), trap: None });
        assert_eq!(report.broken_names(), ["never equal"]);
        assert_eq!(report.broken["never equal"].0.len(), 4);
        assert_eq!(report.states, 100, "goes on after it");
    }

    #[test]
    fn finds_states_from_which_the_end_is_out_of_reach() {
        let report = explore(&Counters { top: 9, forbidden: None, trap: Some(3) });
        assert_eq!(report.broken_names(), ["ends"]);
    }
}
