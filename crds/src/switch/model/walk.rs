//! One random way through a case, to its end. Costs no memory, and the same seed is the same way.

use super::Case;
use super::moves::Move;
use super::world::World;
use stateright::Model;
use std::hash::{DefaultHasher, Hash, Hasher};

/// What did not hold, and how it came to that.
#[derive(Debug)]
#[allow(dead_code)] // read by people only
pub struct Broken {
    pub property: &'static str,
    pub seed: u64,
    pub moves: Vec<Move>,
    pub at_last: Box<World>,
}

/// All that may go wrong is bounded, so every way ends; far before this.
const LONGEST: usize = 2000;

pub fn walk(case: &Case, seed: u64) -> Option<Broken> {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut haste = Haste::of(&mut random);
    let properties = case.properties();
    let mut world = case.init_states().remove(0);
    let (mut taken, mut moves) = (Vec::new(), Vec::new());
    loop {
        if let Some(broken) = properties.iter().find(|property| !(property.condition)(case, &world)) {
            return Some(Broken { property: broken.name, seed, moves: taken, at_last: Box::new(world) });
        }
        case.actions(&world, &mut moves);
        let mut next = None;
        while next.is_none() && !moves.is_empty() {
            let chosen = haste.choose(&mut random, &mut moves);
            next = case.next_state(&world, chosen.clone()).map(|world| (chosen, world));
        }
        let (chosen, after) = next?;
        moves.clear();
        taken.push(chosen);
        world = after;
        haste.change(&mut random);
        assert!(taken.len() < LONGEST, "{} goes on for ever: {taken:#?}", case.name);
    }
}

/// How readily each move is taken. What breaks a protocol is that one thing is late while all else goes on: were all moves taken alike,
/// most rules could be dropped and ten thousands of ways would not show it.
struct Haste([u32; 64]);

impl Haste {
    fn of(random: &mut Random) -> Haste {
        Haste([(); 64].map(|()| Haste::any(random)))
    }

    fn any(random: &mut Random) -> u32 {
        1 << (4 * random.below(4))
    }

    fn change(&mut self, random: &mut Random) {
        if random.below(8) == 0 {
            self.0[random.below(64)] = Haste::any(random);
        }
    }

    fn slot(chosen: &Move) -> usize {
        let mut hasher = DefaultHasher::new();
        chosen.hash(&mut hasher);
        (hasher.finish() % 64) as usize
    }

    fn choose(&self, random: &mut Random, moves: &mut Vec<Move>) -> Move {
        let all: u32 = moves.iter().map(|of| self.0[Haste::slot(of)]).sum();
        let mut left = random.below(all as usize) as u32;
        let at = moves.iter().position(|of| {
            let haste = self.0[Haste::slot(of)];
            let here = left < haste;
            left = left.saturating_sub(haste);
            here
        });
        moves.swap_remove(at.unwrap_or(0))
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }
}
