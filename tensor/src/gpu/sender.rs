//! The thread that encodes and submits batches of commands while the next one is being recorded: that is about half of the
//! host's work for a dispatch.
//!
//! Batches reach the queue in the order in which they were given. Whoever uses the queue in another way, or waits for the
//! GPU, calls [`Sender::drain`] first.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::sync::mpsc;
use std::thread;

use super::fault::Faults;
use crate::error::{Result, TensorError};

/// Batches that wait to be encoded at the most; the recording thread waits for room.
const WAITING: usize = 4;

/// Recorded commands, and what goes with them.
pub(super) struct Batch {
    /// Its serial number; they count up.
    pub number: u64,
    /// Open until now; declared before its encoder, so that it ends first when dropped.
    pub pass: Option<wgpu::ComputePass<'static>>,
    pub encoder: wgpu::CommandEncoder,
    /// A buffer and what it is to hold when the batch begins.
    pub parameters: Option<(wgpu::Buffer, Vec<u8>)>,
    /// The kernel that was recorded last, for messages.
    pub last_kernel: String,
}

enum Job {
    Submit(Box<Batch>),
    /// Answers when everything before is submitted.
    Answer(mpsc::Sender<()>),
}

/// Handle of the thread, which ends with it, once everything is submitted.
pub(super) struct Sender {
    /// `Some` until `drop`.
    jobs: Option<mpsc::SyncSender<Job>>,
    submitted: Arc<AtomicU64>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.jobs = None;
        // A thread that is inside the driver while the program ends could crash it. It fails only where the thread panicked,
        // which was told.
        let _ = self.thread.take().map(thread::JoinHandle::join);
    }
}

impl Sender {
    /// Starts the thread.
    pub fn start(device: &wgpu::Device, queue: &wgpu::Queue, faults: &Arc<Faults>) -> Result<Self> {
        let (jobs, given) = mpsc::sync_channel(WAITING);
        let submitted = Arc::new(AtomicU64::new(0));
        let (device, queue, faults, counter) = (device.clone(), queue.clone(), faults.clone(), submitted.clone());
        let work = move || {
            for job in given {
                match job {
                    Job::Submit(batch) => {
                        faults.note_kernel(&batch.last_kernel);
                        counter.store(submit(&device, &queue, *batch), Release);
                    }
                    // Who asked may have gone.
                    Job::Answer(answer) => drop(answer.send(())),
                }
            }
        };
        let thread = thread::Builder::new().name("submit".into()).spawn(work);
        let thread = thread.map_err(|error| TensorError::Gpu {
            operation: "opening the device".into(),
            message: format!("no thread for submitting commands: {error}"),
        })?;
        Ok(Sender { jobs: Some(jobs), submitted, thread: Some(thread) })
    }

    /// Gives a batch to the thread.
    pub fn send(&self, batch: Batch) -> Result<()> {
        self.give(Job::Submit(Box::new(batch)))
    }

    /// Waits until all batches given so far are submitted.
    pub fn drain(&self) -> Result<()> {
        let (answer, answered) = mpsc::channel();
        self.give(Job::Answer(answer))?;
        answered.recv().map_err(|_| ended())
    }

    /// Whether the batch of this number is with the queue.
    pub fn has_submitted(&self, number: u64) -> bool {
        self.submitted.load(Acquire) >= number
    }

    fn give(&self, job: Job) -> Result<()> {
        self.jobs.as_ref().and_then(|jobs| jobs.send(job).ok()).ok_or_else(ended)
    }
}

/// Only a panic inside the graphics library ends the thread early.
fn ended() -> TensorError {
    TensorError::DeviceLost { reason: "the thread that submits commands has ended".into() }
}

/// Returns the batch's number.
fn submit(device: &wgpu::Device, queue: &wgpu::Queue, batch: Batch) -> u64 {
    let Batch { number, encoder, pass, parameters, .. } = batch;
    // The pass must end first.
    drop(pass);
    if let Some((buffer, bytes)) = parameters {
        queue.write_buffer(&buffer, 0, &bytes);
    }
    queue.submit([encoder.finish()]);
    // Lets the driver take back what finished work no longer needs.
    let _ = device.poll(wgpu::PollType::Poll);
    number
}

#[cfg(test)]
mod tests {
    use crate::testing::{gpu, open_gpu};
    use crate::{DType, Tensor};

    /// Memory that goes back to the pool and is written to again, while commands that read it are still on their way.
    #[test]
    #[cfg_attr(not(feature = "gpu-tests"), ignore = "needs a GPU adapter: --features gpu-tests")]
    fn uploads_wait_for_commands_that_read_their_memory_wgsl() {
        const LENGTH: usize = 300;
        let mut sums = Tensor::zeros(gpu(), &[LENGTH], DType::F32).unwrap();
        for turn in 0..400u16 {
            let x = Tensor::from_slice(gpu(), &[LENGTH], &[f32::from(turn); LENGTH]).unwrap();
            sums = sums.add(&x).unwrap();
        }
        assert_eq!(sums.to_vec::<f32>().unwrap(), [399.0 * 400.0 / 2.0; LENGTH]);
    }

    /// More batches than may wait, from several threads, each of which reads its own results.
    #[test]
    #[cfg_attr(not(feature = "gpu-tests"), ignore = "needs a GPU adapter: --features gpu-tests")]
    fn threads_share_the_sender_wgsl() {
        let device = open_gpu();
        let count = &|times: usize| {
            let one = Tensor::ones(&device, &[4], DType::F32).unwrap();
            let all = (0..times).fold(one.clone(), |all, _| all.add(&one).unwrap());
            all.to_vec::<f32>().unwrap()
        };
        std::thread::scope(|scope| {
            let all = [700, 900, 1100].map(|times| (times, scope.spawn(move || count(times))));
            for (times, counted) in all {
                assert_eq!(counted.join().unwrap(), [1.0 + times as f32; 4]);
            }
        });
    }
}
