//! Threads that each do one thing after another until the time is over: rate and latencies of all of them.

use crate::Outcome;
use crate::ceiling::{Clock, Run, latencies, nanos};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, RwLock, mpsc};
use std::time::{Duration, Instant};

/// `producers` threads. `start` is called in each with its number, before the clock runs; what it returns is done again and
/// again. Ends when everything begun is done; the first error ends it too.
pub fn run<W>(producers: usize, window: Duration, start: impl Fn(usize) -> Outcome<W> + Sync) -> Outcome<Run>
where
    W: FnMut() -> Outcome,
{
    let (stop, gate, merged) = (AtomicBool::new(false), RwLock::new(()), Mutex::new(latencies()?));
    let (ready, started) = mpsc::channel();
    let work = |number: usize, ready: mpsc::Sender<()>| -> Outcome {
        let one = start(number).inspect_err(|_| stop.store(true, Ordering::Relaxed));
        // The receiver is gone only when a thread could not be started, and then `stop` is set.
        let _ = ready.send(());
        drop(ready);
        drop(gate.read());
        let (mut one, mut own) = (one?, latencies()?);
        // At least one each, however short the window.
        loop {
            let begin = Instant::now();
            one().inspect_err(|_| stop.store(true, Ordering::Relaxed))?;
            own.saturating_record(nanos(begin.elapsed()));
            if stop.load(Ordering::Relaxed) {
                break;
            }
        }
        merged.lock().map_err(|_| "a producer panicked")?.add(own)?;
        Ok(())
    };
    let mut clock = Clock::start()?;
    std::thread::scope(|scope| -> Outcome {
        let closed = gate.write();
        let mut all = Vec::with_capacity(producers);
        for number in 0..producers {
            let (work, ready) = (&work, ready.clone());
            let thread = std::thread::Builder::new().stack_size(512 << 10);
            let thread = thread.spawn_scoped(scope, move || work(number, ready));
            all.push(thread.inspect_err(|_| stop.store(true, Ordering::Relaxed))?);
        }
        drop(ready);
        started.iter().take(producers).for_each(|()| {});
        clock = Clock::start()?;
        drop(closed);
        let begin = Instant::now();
        while begin.elapsed() < window && !stop.load(Ordering::Relaxed) {
            std::thread::sleep((window - begin.elapsed().min(window)).min(Duration::from_millis(50)));
        }
        stop.store(true, Ordering::Relaxed);
        all.into_iter().try_for_each(|t| t.join().map_err(|_| "a producer panicked")?)
    })?;
    clock.merge(&*merged.lock().map_err(|_| "a producer panicked")?)?;
    Ok(clock.run())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    #[test]
    fn all_that_was_done_is_counted_and_an_error_ends_it() {
        let done = AtomicU64::new(0);
        let begin = Instant::now();
        let r = run(4, Duration::from_millis(30), |_| {
            Ok(|| {
                std::thread::sleep(Duration::from_millis(1));
                done.fetch_add(1, Ordering::Relaxed);
                Ok(())
            })
        });
        let counted = r.unwrap().rate * begin.elapsed().as_secs_f64();
        assert!(counted + 1.0 >= done.load(Ordering::Relaxed) as f64);
        assert!(done.load(Ordering::Relaxed) >= 4);
        let failed = run(4, Duration::from_secs(60), |n| Ok(move || if n == 2 { Err("no".into()) } else { Ok(()) }));
        assert_eq!(failed.unwrap_err().to_string(), "no");
        let never =
            run(2, Duration::from_secs(60), |n| if n == 1 { Err("no start".into()) } else { Ok(|| Err("x".into())) });
        assert!(never.is_err());
    }
}
