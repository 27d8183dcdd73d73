//! Events on the wire: worker -> coordinator.

use medley_common::evaluation::Prediction;
use medley_common::identity::{Digest, Generation, Known, ProcessMark, RowId, Update, WorkerId};
use medley_common::message::{Event, Failure, GpuUse, Held, Hello, LaneReport, PROTOCOL, Timing, UpdateReport};
use medley_common::save::SaveId;

use crate::v1;
use crate::v1::session_request::Event as Wire;
use crate::wire::{WireError, at_most, digest, line, piece, ranges, required, to_ranges, to_token, token};

/// Bytes of a name: a host's, a device's, an address.
const NAME_BYTES: usize = 512;
/// Bytes of what is said to people: a failure, a note.
const WORDS_BYTES: usize = 8 << 10;
/// Notes of a worker that has built its model.
const NOTES: usize = 32;
/// Sessions that a process may have had.
const NAMES: usize = 10_000;
/// Updates that may be under way, many times over.
const REPORTS: usize = 256;

impl From<Event> for v1::SessionRequest {
    fn from(event: Event) -> Self {
        let event = match event {
            Event::Hello(hello) => Wire::Hello((*hello).into()),
            Event::Prepared { layout, endpoint, notes } => {
                Wire::Prepared(v1::Prepared { layout: layout.0.to_vec(), endpoint, notes })
            }
            Event::Token { generation, token } => Wire::Token(to_token(generation, token)),
            Event::Formed { generation } => Wire::Formed(v1::Formed { generation: generation.0 }),
            Event::Updated { generation, report } => Wire::Updated(updated(generation, report)),
            Event::Saved { save, piece, parameters } => Wire::Saved(v1::Saved {
                generation: save.generation.0,
                update: save.update.0,
                parameters: parameters.0.to_vec(),
                piece: piece.index,
                pieces: piece.count,
            }),
            Event::Predicted { generation, split, predictions } => Wire::Predicted(v1::Predicted {
                generation: generation.0,
                split: v1::Split::from(split).into(),
                predictions: predictions.into_iter().map(Into::into).collect(),
            }),
            Event::Evaluated { generation, split } => {
                Wire::Evaluated(v1::Evaluated { generation: generation.0, split: v1::Split::from(split).into() })
            }
            Event::Disconnected { generation, problem } => {
                Wire::Disconnected(v1::Disconnected { generation: generation.0, problem })
            }
            Event::StandingBy { generation, update, kept } => Wire::StandingBy(v1::StandingBy {
                generation: generation.0,
                update: update.0,
                kept: Some(v1::LaneSet { runs: to_ranges(kept) }),
            }),
            Event::Leaving => Wire::Leaving(v1::Leaving {}),
            Event::Heartbeat => Wire::Heartbeat(v1::Heartbeat {}),
            Event::Failed(failure) => {
                Wire::Failed(v1::Failed { kind: v1::FailureKind::from(failure.kind).into(), message: failure.message })
            }
        };
        Self { event: Some(event), memory: None }
    }
}

impl TryFrom<v1::SessionRequest> for Event {
    type Error = WireError;

    fn try_from(request: v1::SessionRequest) -> Result<Self, WireError> {
        Ok(match required(request.event, "session_request.event")? {
            Wire::Hello(hello) => Hello::try_from(hello)?.into(),
            Wire::Prepared(prepared) => Self::Prepared {
                layout: digest(&prepared.layout, "prepared.layout")?,
                endpoint: line(prepared.endpoint, NAME_BYTES),
                notes: at_most(prepared.notes, NOTES, "prepared.notes")?
                    .into_iter()
                    .map(|note| line(note, WORDS_BYTES))
                    .collect(),
            },
            Wire::Token(message) => {
                let (generation, token) = token(message)?;
                Self::Token { generation, token }
            }
            Wire::Formed(formed) => Self::Formed { generation: Generation(formed.generation) },
            Wire::Updated(updated) => {
                Self::Updated { generation: Generation(updated.generation), report: report(updated)? }
            }
            Wire::Saved(saved) => Self::Saved {
                save: SaveId { update: Update(saved.update), generation: Generation(saved.generation) },
                piece: piece(saved.piece, saved.pieces, "saved.piece")?,
                parameters: digest(&saved.parameters, "saved.parameters")?,
            },
            Wire::Predicted(predicted) => Self::Predicted {
                generation: Generation(predicted.generation),
                split: predicted.split().try_into()?,
                predictions: predicted.predictions.into_iter().map(Into::into).collect(),
            },
            Wire::Evaluated(evaluated) => {
                Self::Evaluated { generation: Generation(evaluated.generation), split: evaluated.split().try_into()? }
            }
            Wire::Disconnected(disconnected) => Self::Disconnected {
                generation: Generation(disconnected.generation),
                problem: line(disconnected.problem, WORDS_BYTES),
            },
            Wire::StandingBy(standing) => Self::StandingBy {
                generation: Generation(standing.generation),
                update: Update(standing.update),
                kept: ranges(standing.kept.unwrap_or_default().runs, "standing_by.kept")?,
            },
            Wire::Leaving(v1::Leaving {}) => Self::Leaving,
            Wire::Heartbeat(v1::Heartbeat {}) => Self::Heartbeat,
            Wire::Failed(failed) => {
                Self::Failed(Failure { kind: failed.kind().try_into()?, message: line(failed.message, WORDS_BYTES) })
            }
        })
    }
}

impl From<Hello> for v1::Hello {
    fn from(hello: Hello) -> Self {
        let Hello { protocol, version, host, pid, process, session, .. } = hello;
        let Hello { device, gpu, processor, threads, program, known, held, .. } = hello;
        let gpu = gpu.map(|GpuUse { uuid, is_shared }| v1::GpuUse { uuid, is_shared });
        let known = known.map(|Known { run, names }| v1::Known {
            run: run.0.to_vec(),
            names: names.into_iter().map(|name| name.0).collect(),
        });
        let held = held.map(|held| (*held).into());
        let (process, program) = (process.0, program.0.to_vec());
        Self { protocol, version, host, pid, process, session, device, threads, program, held, gpu, processor, known }
    }
}

impl TryFrom<v1::Hello> for Hello {
    type Error = WireError;

    fn try_from(hello: v1::Hello) -> Result<Self, WireError> {
        let v1::Hello { protocol, version, host, pid, process, session, .. } = hello;
        let v1::Hello { device, threads, program, held, gpu, processor, known, .. } = hello;
        let known = known.map(|v1::Known { run, names }| {
            let names = at_most(names, NAMES, "known.names")?.into_iter().map(WorkerId).collect();
            Ok(Known { run: digest(&run, "known.run")?, names })
        });
        let held = held.map(Held::try_from).transpose()?.map(Box::new);
        let gpu = gpu.map(|v1::GpuUse { uuid, is_shared }| GpuUse { uuid: line(uuid, NAME_BYTES), is_shared });
        let [version, host, device, processor] = [version, host, device, processor].map(|name| line(name, NAME_BYTES));
        let (known, process) = (known.transpose()?, ProcessMark(process));
        // Another protocol is refused by name, whatever else its hello lacks.
        let program = match protocol == PROTOCOL {
            true => digest(&program, "hello.program")?,
            false => Digest([0; 32]),
        };
        Ok(Self {
            protocol,
            version,
            host,
            pid,
            process,
            session,
            device,
            gpu,
            processor,
            threads,
            program,
            known,
            held,
        })
    }
}

impl From<Held> for v1::Held {
    fn from(held: Held) -> Self {
        let generation = held.generation;
        Self {
            layout: held.layout.0.to_vec(),
            endpoint: held.endpoint,
            generation: generation.0,
            update: held.update.0,
            kept: Some(v1::LaneSet { runs: to_ranges(held.kept) }),
            reports: held.reports.into_iter().map(|report| updated(generation, report)).collect(),
            copy: held
                .copy
                .map(|SaveId { update, generation }| v1::SaveId { generation: generation.0, update: update.0 }),
        }
    }
}

impl TryFrom<v1::Held> for Held {
    type Error = WireError;

    fn try_from(held: v1::Held) -> Result<Self, WireError> {
        Ok(Self {
            layout: digest(&held.layout, "held.layout")?,
            endpoint: line(held.endpoint, NAME_BYTES),
            generation: Generation(held.generation),
            update: Update(held.update),
            kept: ranges(held.kept.unwrap_or_default().runs, "held.kept")?,
            reports: at_most(held.reports, REPORTS, "held.reports")?
                .into_iter()
                .map(report)
                .collect::<Result<_, WireError>>()?,
            copy: held.copy.map(|save| SaveId { update: Update(save.update), generation: Generation(save.generation) }),
        })
    }
}

fn updated(generation: Generation, report: UpdateReport) -> v1::Updated {
    let lane =
        |lane: LaneReport| v1::LaneReport { lane: lane.lane, rows: lane.rows.into_iter().map(|row| row.0).collect() };
    v1::Updated {
        generation: generation.0,
        update: report.update.0,
        learning_rate: report.learning_rate,
        grad_norm: report.grad_norm,
        skipped: report.skipped,
        lanes: report.lanes.into_iter().map(lane).collect(),
        losses: report.losses,
        tokens: report.tokens,
        parameters: report.parameters.map(|digest| digest.0.to_vec()),
        data_seconds: report.timing.data_seconds,
        forward_seconds: report.timing.forward_seconds,
        backward_seconds: report.timing.backward_seconds,
        wait_seconds: report.timing.wait_seconds,
        optimizer_seconds: report.timing.optimizer_seconds,
        started_us: report.timing.started_us,
        exchange_seconds: report.timing.exchange_seconds,
        sent_bytes: report.timing.sent_bytes,
    }
}

fn report(updated: v1::Updated) -> Result<UpdateReport, WireError> {
    let lane = |lane: v1::LaneReport| LaneReport { lane: lane.lane, rows: lane.rows.into_iter().map(RowId).collect() };
    Ok(UpdateReport {
        update: Update(updated.update),
        learning_rate: updated.learning_rate,
        grad_norm: updated.grad_norm,
        skipped: updated.skipped,
        lanes: updated.lanes.into_iter().map(lane).collect(),
        losses: updated.losses,
        tokens: updated.tokens,
        parameters: updated.parameters.map(|bytes| digest(&bytes, "updated.parameters")).transpose()?,
        timing: Timing {
            started_us: updated.started_us,
            data_seconds: updated.data_seconds,
            forward_seconds: updated.forward_seconds,
            backward_seconds: updated.backward_seconds,
            wait_seconds: updated.wait_seconds,
            optimizer_seconds: updated.optimizer_seconds,
            exchange_seconds: updated.exchange_seconds,
            sent_bytes: updated.sent_bytes,
        },
    })
}

impl From<Prediction> for v1::Prediction {
    fn from(prediction: Prediction) -> Self {
        Self { row: prediction.row.0, logits: prediction.logits, loss: prediction.loss }
    }
}

impl From<v1::Prediction> for Prediction {
    fn from(prediction: v1::Prediction) -> Self {
        Self { row: RowId(prediction.row), logits: prediction.logits, loss: prediction.loss }
    }
}

#[cfg(test)]
mod tests {
    use medley_common::identity::Split;
    use medley_common::message::{FailureKind, Token};
    use medley_common::save::Piece;

    use super::*;

    fn timing() -> Timing {
        Timing {
            started_us: 12_345_678,
            data_seconds: 0.5,
            forward_seconds: 0.1,
            backward_seconds: 0.2,
            wait_seconds: 0.3,
            optimizer_seconds: 0.4,
            exchange_seconds: 0.6,
            sent_bytes: 1 << 40,
        }
    }

    #[test]
    fn every_event_survives_the_wire() {
        let hello = Hello {
            protocol: PROTOCOL,
            version: "0.1.0".into(),
            host: "node7".into(),
            pid: 41,
            process: ProcessMark(u64::MAX),
            session: 3,
            device: "cuda:1".into(),
            gpu: Some(GpuUse { uuid: "GPU-1".into(), is_shared: true }),
            processor: "EPYC, avx512f".into(),
            threads: 2,
            program: Digest([4; 32]),
            known: None,
            held: None,
        };
        let report = UpdateReport {
            update: Update(7),
            learning_rate: 3e-5,
            grad_norm: 1.5,
            skipped: true,
            lanes: vec![LaneReport { lane: 3, rows: vec![RowId(4), RowId(2)] }],
            losses: vec![0.0, 2.25],
            tokens: 90,
            parameters: Some(Digest([8; 32])),
            timing: timing(),
        };
        let predictions = vec![
            Prediction { row: RowId(1), logits: vec![0.5, -1.0, f32::MIN], loss: Some(0.25) },
            Prediction { row: RowId(2), logits: vec![], loss: None },
        ];
        let generation = Generation(2);
        let save = SaveId { update: Update(9), generation };
        let known = Known { run: Digest([5; 32]), names: vec![WorkerId(3), WorkerId(7)] };
        let held = Held {
            layout: Digest([6; 32]),
            endpoint: "10.0.0.1:4000".into(),
            generation,
            update: Update(7),
            kept: vec![0..2, 5..8],
            reports: vec![UpdateReport { update: Update(6), ..report.clone() }, report.clone()],
            copy: Some(save),
        };
        let events = [
            Event::from(hello.clone()),
            Event::from(Hello { known: Some(known), held: Some(Box::new(held)), ..hello }),
            Event::Prepared { layout: Digest([7; 32]), endpoint: "10.0.0.1:4000".into(), notes: vec!["new".into()] },
            Event::Token { generation, token: Token::new(vec![0, 255, 7]).unwrap() },
            Event::Formed { generation },
            Event::Updated { generation, report },
            Event::Saved { save, piece: Piece { index: 0, count: 2 }, parameters: Digest([1; 32]) },
            Event::Predicted { generation, split: Split::Validation, predictions },
            Event::Evaluated { generation, split: Split::Test },
            Event::Disconnected { generation, problem: "rank 1 is gone".into() },
            Event::StandingBy { generation, update: Update(7), kept: vec![0..2, 2..3, 5..8] },
            Event::Leaving,
            Event::Heartbeat,
            Event::Failed(Failure { kind: FailureKind::Data, message: "no".into() }),
        ];
        for event in events {
            assert_eq!(Event::try_from(v1::SessionRequest::from(event.clone())), Ok(event));
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let empty = v1::SessionRequest { event: None, memory: None };
        assert_eq!(Event::try_from(empty), Err(WireError::Missing { field: "session_request.event" }));
        let short = v1::Prepared { layout: vec![1, 2], ..Default::default() };
        let request = v1::SessionRequest { event: Some(Wire::Prepared(short)), memory: None };
        assert_eq!(Event::try_from(request), Err(WireError::Size { field: "prepared.layout", expected: 32, found: 2 }));
        for runs in [vec![(2, 2)], vec![(3, 5), (4, 6)]] {
            let runs = runs.into_iter().map(|(start, end)| v1::Range { start, end }).collect();
            let standing = v1::StandingBy { kept: Some(v1::LaneSet { runs }), ..Default::default() };
            let request = v1::SessionRequest { event: Some(Wire::StandingBy(standing)), memory: None };
            let field = "standing_by.kept";
            assert!(matches!(Event::try_from(request), Err(WireError::Value { field: found, .. }) if found == field));
        }
        for bytes in [0, Token::MOST_BYTES + 1] {
            let token = v1::Token { generation: 1, token: vec![222; bytes] };
            assert!(!format!("{token:?}").contains("222"), "a token is not shown");
            let problem = format!("{bytes} bytes; expected 1 to 1024");
            let refused = Err(WireError::Value { field: "token.token", problem });
            assert_eq!(Event::try_from(v1::SessionRequest { event: Some(Wire::Token(token)), memory: None }), refused);
        }
        let evaluated = v1::Evaluated { generation: 1, split: 99 };
        let request = v1::SessionRequest { event: Some(Wire::Evaluated(evaluated)), memory: None };
        assert_eq!(Event::try_from(request), Err(WireError::Missing { field: "split" }));
    }
}
