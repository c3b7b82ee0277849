//! Runs the stages of a leg side by side, and joins them: the first error counts, a panic becomes one.

use std::thread::{Scope, ScopedJoinHandle};

use crossbeam_channel::bounded;

use crate::error::{Error, Result};

/// How many batches may wait between two stages: none. One in each hand keeps everybody busy, and memory small.
pub const QUEUE: usize = 0;

/// Runs three stages, each on its own thread, until the first has nothing left or one of them fails: `first` makes pieces
/// of work, `second` turns each into others, `third` takes those in.
///
/// A stage that fails stops the one before it at its next hand-over, and lets the one behind it finish what it was given.
///
/// # Errors
/// The first failure, in the data's order.
pub fn side_by_side<A: Send, B: Send>(
    names: [&str; 3],
    mut first: impl FnMut() -> Result<Option<A>> + Send,
    mut second: impl FnMut(A) -> Result<Vec<B>> + Send,
    third: impl FnMut(B) -> Result<()> + Send,
) -> Result<()> {
    let (first_out, second_in) = bounded::<A>(QUEUE);
    let (second_out, third_in) = bounded::<B>(QUEUE);
    std::thread::scope(|scope| {
        let ahead = spawn(scope, names[0], move || {
            while let Some(piece) = first()? {
                // A failed send means that the next stage has ended; its own error tells why.
                if first_out.send(piece).is_err() {
                    break;
                }
            }
            Ok(())
        })?;
        let between = spawn(scope, names[1], move || {
            for piece in second_in {
                if second(piece)?.into_iter().any(|made| second_out.send(made).is_err()) {
                    break;
                }
            }
            Ok(())
        })?;
        let behind = spawn(scope, names[2], move || third_in.iter().try_for_each(third))?;
        first_error([join(names[0], ahead), join(names[1], between), join(names[2], behind)])
    })
}

/// Starts a stage's thread.
///
/// # Errors
/// 70 if the operating system has no thread left.
pub fn spawn<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: &str,
    stage: impl FnOnce() -> Result<T> + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, Result<T>>> {
    std::thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, stage).map_err(|error| {
        Error::unavailable(format!("cannot start the thread {name}"), error, "raise the limit on processes (ulimit -u)")
    })
}

/// Waits for a stage.
///
/// # Errors
/// The stage's own, or 70 if it panicked.
pub fn join<T>(name: &str, handle: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    handle.join().unwrap_or_else(|panic| Err(Error::bug(format!("the thread {name} ended"), panic_text(&*panic))))
}

/// The message of a panic, if it has one.
#[must_use]
pub fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "it panicked".into())
}

/// The first failure of several stages, in the data's order; the others are logged.
///
/// # Errors
/// That failure.
pub fn first_error<const N: usize>(results: [Result<()>; N]) -> Result<()> {
    let mut first = Ok(());
    for result in results {
        match (&first, result) {
            (Ok(()), result) => first = result,
            (Err(_), Err(also)) => log::warn!("also: {also}"),
            (Err(_), Ok(())) => {}
        }
    }
    first
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;
    use crate::exit_code::ExitCode;

    /// How a stage ends that does not do what it should.
    #[derive(Clone, Copy, Debug)]
    enum Death {
        Error,
        Panic,
    }

    fn die(death: Death, stage: usize) -> Error {
        match death {
            Death::Error => Error::unavailable(format!("stage {stage}"), "it was told to fail", "none"),
            Death::Panic => panic!("stage {stage} panics"),
        }
    }

    /// Runs three stages over a thousand pieces, some of which die at a piece of their own; returns what the last one took,
    /// or `None` if nobody came back within ten seconds.
    fn run(deaths: [Option<(Death, u32)>; 3]) -> Option<(Result<()>, Vec<u32>)> {
        let (done, ended) = mpsc::channel();
        std::thread::spawn(move || {
            let (mut made, mut passed, mut taken) = (0, 0, Vec::new());
            let dies = |stage: usize, at: u32| deaths[stage].filter(|(_, when)| *when == at).map(|(death, _)| death);
            let result = side_by_side(
                ["first", "second", "third"],
                || {
                    made += 1;
                    dies(0, made).map_or(Ok((made <= 1000).then_some(made)), |death| Err(die(death, 0)))
                },
                |piece| {
                    passed += 1;
                    dies(1, passed).map_or(Ok(vec![piece, piece]), |death| Err(die(death, 1)))
                },
                |piece| {
                    taken.push(piece);
                    dies(2, u32::try_from(taken.len()).unwrap()).map_or(Ok(()), |death| Err(die(death, 2)))
                },
            );
            let _ = done.send((result, taken));
        });
        ended.recv_timeout(Duration::from_secs(10)).ok()
    }

    #[test]
    fn every_piece_passes_in_order() {
        let (result, taken) = run([None; 3]).expect("it ends");
        result.unwrap();
        assert_eq!(taken, (1..=1000).flat_map(|piece| [piece, piece]).collect::<Vec<_>>());
    }

    #[test]
    fn when_a_stage_dies_its_neighbours_end_and_what_was_handed_over_is_finished() {
        for stage in 0..3 {
            for at in [1, 2, 3, 500] {
                for death in [Death::Error, Death::Panic] {
                    let mut deaths = [None; 3];
                    deaths[stage] = Some((death, at));
                    let (result, taken) =
                        run(deaths).unwrap_or_else(|| panic!("stage {stage} {death:?} at {at}: stuck"));
                    let error = result.unwrap_err();
                    let expected = if matches!(death, Death::Error) { ExitCode::Unavailable } else { ExitCode::Bug };
                    assert_eq!(error.exit_code(), expected, "stage {stage} at {at}: {error}");
                    let finished = [2 * (at as usize - 1), 2 * (at as usize - 1), at as usize][stage];
                    assert_eq!(taken.len(), finished, "stage {stage} {death:?} at {at}");
                }
            }
        }
    }

    #[test]
    fn the_first_of_several_errors_in_the_datas_order_counts() {
        let failed = |stage| Err(die(Death::Error, stage));
        let what = |results| first_error::<3>(results).map_err(|error| error.what().to_owned());
        assert_eq!(what([failed(0), Ok(()), failed(2)]), Err("stage 0".into()));
        assert_eq!(what([Ok(()), failed(1), failed(2)]), Err("stage 1".into()));
        assert_eq!(what([Ok(()), Ok(()), Ok(())]), Ok(()));
    }
}
