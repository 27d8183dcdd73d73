use std::borrow::Cow;

use medley_common::identity::Rank;
use medley_common::lane::Node;
use medley_common::spec::OptimizerKind;

use super::*;
use crate::collective::{Parts, Shard, Solo, Traffic};
use crate::ops::cpu::Cpu;
use crate::trainer::fixture::{Member, config, examples, group, plan, spec, trainer};

/// A group whose gradients travel in bfloat16, as `--gradient_dtype` has them do between GPUs.
struct Rounding {
    member: Member,
    in_full: bool,
}

impl Rounding {
    fn rounded(&self, values: Vec<f32>) -> Vec<f32> {
        if self.in_full {
            return values;
        }
        values.into_iter().map(|value| half::bf16::from_f32(value).to_f32()).collect()
    }
}

impl Collective for Rounding {
    fn rank(&self) -> Rank {
        self.member.rank()
    }

    fn world(&self) -> u32 {
        self.member.world()
    }

    fn sums(&mut self, sums: Sums) {
        self.in_full = sums == Sums::State;
        self.member.sums(sums);
    }

    fn launch(&mut self, segment: Segment, sums: Vec<(Node, Vec<f32>)>) -> Result<(), CollectiveError> {
        let sums = sums.into_iter().map(|(node, sum)| (node, self.rounded(sum))).collect();
        self.member.launch(segment, sums)
    }

    fn launch_words(&mut self, sums: Vec<(Node, SparseRows)>) -> Result<(), CollectiveError> {
        let rounded = |(node, rows): (Node, SparseRows)| {
            (node, SparseRows { rows: rows.rows, values: self.rounded(rows.values) })
        };
        let sums = sums.into_iter().map(rounded).collect();
        self.member.launch_words(sums)
    }

    fn all_gather(&mut self, buffer: &mut Vec<f32>, shards: &[Shard]) -> Result<Traffic, CollectiveError> {
        self.member.all_gather(buffer, shards)
    }

    fn fence(&mut self) -> Result<Summed, CollectiveError> {
        self.member.fence()
    }

    fn reuse(&mut self, sums: Vec<Vec<f32>>) -> Vec<Vec<f32>> {
        sums
    }

    fn salvage(&mut self) -> Parts {
        Parts::default()
    }
}

/// Where gradients are rounded on their way, a state is not, and gradients are again after it.
#[test]
fn a_state_travels_in_full_where_gradients_do_not() {
    let (make, update) = (|| trainer(&config(), spec(OptimizerKind::AdamwTorch, 4)), Update(1));
    let run = |(rank, member): (usize, Member)| {
        let mut trainer = make();
        if rank == 0 {
            let mut solo = Solo::new(Cpu, trainer.layout(), 4);
            trainer.step(&plan(1, 0..8, 4), &[0..4], &examples(), &mut solo).unwrap();
        }
        let mut rounding = Rounding { member, in_full: false };
        let lanes = 2 * rank as u32..2 * rank as u32 + 2;
        let handover = Handover { is_source: rank == 0, lanes: std::slice::from_ref(&lanes), update };
        trainer.hand_over(handover, &mut rounding).unwrap();
        assert!(!rounding.in_full);
        (
            trainer.parameters().unwrap().to_vec(),
            trainer.memory().unwrap().into_iter().map(Cow::into_owned).collect::<Vec<_>>(),
        )
    };
    let [source, taken] = std::thread::scope(|scope| {
        let ranks: Vec<_> = group(2, 4).into_iter().enumerate().map(|rank| scope.spawn(move || run(rank))).collect();
        <[_; 2]>::try_from(ranks).unwrap().map(|rank| rank.join().unwrap())
    });
    assert!(source == taken, "to the bit");
    assert!(source.1[0].iter().any(|moment| *moment != 0.0), "it was no empty state");
}
