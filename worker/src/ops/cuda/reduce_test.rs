//! Copies and sums of squares, by every driver.

use medley_common::spec::Precision;

use super::Cuda;
use super::driver::{Driver, Element};
use super::drivers_test::{DriverTest, on_each_driver};
use crate::collective::SparseRows;
use crate::ops::cpu::Cpu;
use crate::ops::cpu::oracle::noise;
use crate::ops::{Ops, Slice};

struct Ends;

impl DriverTest for Ends {
    fn run<D: Driver + Clone>(&self, driver: D) {
        let cuda = Cuda::new(driver, Precision::Float32);
        let buffer = cuda.upload(vec![3e30; 5000]).unwrap();
        let sum = |range| cuda.square_sum(&[Slice { buffer: &buffer, range }]);
        assert_eq!(sum(0..1), Cpu.square_sum(&[Slice { buffer: &vec![3e30], range: 0..1 }]));
        assert_eq!(sum(7..7), Ok(0.0));
        assert!(sum(0..5001).unwrap_err().to_string().contains("0..5001 of a buffer of 5000"));
        assert!(cuda.read(Slice { buffer: &buffer, range: 4999..5001 }).is_err());
    }
}

#[test]
fn squares_do_not_overflow_and_buffers_have_ends() {
    on_each_driver(&Ends);
}

struct Travel;

impl DriverTest for Travel {
    fn run<D: Driver + Clone>(&self, driver: D) {
        let cuda = Cuda::new(driver, Precision::Float32);
        let values = noise(1000, 1);
        let (from, to) = (cuda.upload(values.clone()).unwrap(), cuda.upload(vec![7.0; 1000]).unwrap());
        let narrow = cuda.narrowed(&from, 900, Element::Bf16).unwrap();
        cuda.widen(&narrow, &to, 900, Element::Bf16).unwrap();
        let rounded = values[..900].iter().map(|value| half::bf16::from_f32(*value).to_f32());
        let expected: Vec<f32> = rounded.chain(std::iter::repeat_n(7.0, 100)).collect();
        assert_eq!(cuda.download(to).unwrap(), expected);

        let rows = SparseRows { rows: vec![1, 4], values: cuda.upload(noise(20, 2)).unwrap() };
        let dense = cuda.zeros(50).unwrap();
        cuda.scatter_rows(&rows, &dense, 10).unwrap();
        let dense = cuda.download(dense).unwrap();
        assert_eq!((&dense[10..20], &dense[40..50]), (&noise(20, 2)[..10], &noise(20, 2)[10..]));
        assert!(dense.iter().enumerate().all(|(i, value)| *value == 0.0 || matches!(i / 10, 1 | 4)));
    }
}

/// Gradients as they travel between GPUs: rounded to bfloat16 and back, and rows in their places of a matrix.
#[test]
fn gradients_travel_as_they_should() {
    on_each_driver(&Travel);
}

struct Pieces;

impl DriverTest for Pieces {
    fn run<D: Driver + Clone>(&self, driver: D) {
        fn piece<O: Ops>(_: &O) -> usize {
            O::PIECE
        }
        let cuda = Cuda::new(driver, Precision::Float32);
        let (piece, count) = (piece(&cuda), 2 * piece(&cuda) + 301);
        // At a place of its own, nothing is aligned.
        let shifted = [&[0.5; 3][..], &noise(count, 1)].concat();
        let (buffer, shifted) = (cuda.upload(noise(count, 1)).unwrap(), cuda.upload(shifted).unwrap());
        let run = |buffer, range| Slice { buffer, range };
        let whole =
            cuda.square_sums(&[run(&buffer, 0..count), run(&buffer, 9..9), run(&shifted, 3..count + 3)]).unwrap();
        assert_eq!(whole.iter().map(Vec::len).collect::<Vec<_>>(), [3, 0, 3]);
        assert_eq!(whole[0], whole[2], "wherever it lies");
        let expected = Cpu.square_sum(&[Slice { buffer: &noise(count, 1), range: 0..count }]).unwrap();
        assert!((whole[0].iter().sum::<f64>() / expected - 1.0).abs() < 1e-12);
        let parts = cuda.square_sums(&[run(&buffer, 0..piece), run(&buffer, piece..count)]).unwrap();
        assert_eq!(parts.concat(), whole[0], "whoever has which");
    }
}

/// A norm is the same whoever has which pieces.
#[test]
fn a_piece_has_the_same_sum_wherever_it_lies() {
    on_each_driver(&Pieces);
}
