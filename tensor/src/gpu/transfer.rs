//! Moving bytes between the host and the GPU. These are the only places that wait or stage.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc;

use super::{Gpu, GpuStorage, lock, tiles};
use crate::error::{Result, TensorError};

/// Bytes moved at once, so that staging memory stays small beside large tensors.
const PIECE: usize = 64 << 20;

/// Pieces from this length on are sent at once, and what was sent before is freed: else the staging memory of a
/// checkpoint's many tensors would add up.
const SENT_AT_ONCE: usize = 1 << 20;

impl Gpu {
    /// New memory holding `bytes`.
    pub fn upload(self: &Arc<Self>, operation: &'static str, bytes: &[u8]) -> Result<GpuStorage> {
        let storage = self.allocate(operation, bytes.len() as u64)?;
        let buffer = storage.buffer();
        // Writes go ahead of commands not yet with the queue; send them first if they still use this buffer.
        {
            let mut stream = lock(&self.stream);
            let last_batch = buffer.last_batch.load(Relaxed);
            if last_batch == stream.batch {
                stream.submit(self)?;
            }
            if !stream.sender.has_submitted(last_batch) {
                stream.sender.drain()?;
            }
        }
        for (index, piece) in bytes.chunks(PIECE).enumerate() {
            let whole = piece.len() / 4 * 4;
            let offset = (index * PIECE) as u64;
            if whole > 0 {
                self.queue.write_buffer(&buffer.raw, offset, &piece[..whole]);
            }
            if whole < piece.len() {
                // Writes are whole words; the buffer is, too.
                let mut word = [0; 4];
                word[..piece.len() - whole].copy_from_slice(&piece[whole..]);
                self.queue.write_buffer(&buffer.raw, offset + whole as u64, &word);
            }
            if piece.len() >= SENT_AT_ONCE {
                self.queue.submit([]);
                let _ = self.device.poll(wgpu::PollType::Poll);
            }
        }
        self.faults.check()?;
        Ok(storage)
    }

    /// The bytes `start..start + count` of a buffer. Waits for all recorded work.
    pub fn download(&self, storage: &GpuStorage, start: u64, count: usize) -> Result<Vec<u8>> {
        let _order = tiles::arrange(self, [tiles::Wanted { storage, tiles: None, overwritten: false }].into_iter())?;
        let mut bytes = Vec::with_capacity(count);
        // Copies are whole words: begin at or before the first byte wanted and end at or after the last.
        let mut position = start / 4 * 4;
        let end = (start + count as u64).next_multiple_of(4);
        let mut skip = (start - position) as usize;
        while position < end {
            let piece = (end - position).min(PIECE as u64);
            self.download_piece(storage, position, piece, |mapped| {
                let wanted = (mapped.len() - skip).min(count - bytes.len());
                bytes.extend_from_slice(&mapped[skip..skip + wanted]);
            })?;
            skip = 0;
            position += piece;
        }
        Ok(bytes)
    }

    fn download_piece(&self, storage: &GpuStorage, start: u64, count: u64, take: impl FnOnce(&[u8])) -> Result<()> {
        self.drain()?;
        let mut slot = lock(&self.staging);
        let staging = match slot.take() {
            Some(staging) if staging.size() >= count => staging,
            _ => self.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("staging"),
                size: count.next_power_of_two().max(4096),
                usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            }),
        };
        let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.copy_buffer_to_buffer(&storage.buffer().raw, start, &staging, 0, count);
        self.queue.submit([encoder.finish()]);
        let (sender, receiver) = mpsc::channel();
        staging.map_async(wgpu::MapMode::Read, ..count, move |result| {
            // The receiver only goes away when this function has already returned with an error.
            let _ = sender.send(result);
        });
        self.wait()?;
        let failed = |message: String| TensorError::Gpu { operation: "download".into(), message };
        // Another thread that polls the device may be the one to run the callback, a moment after `wait` returns here.
        match receiver.recv() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(failed(error.to_string())),
            Err(_) => return Err(failed("the GPU did not finish the copy".into())),
        }
        let mapped = staging.get_mapped_range(..count).map_err(|error| failed(error.to_string()))?;
        take(&mapped);
        drop(mapped);
        staging.unmap();
        *slot = Some(staging);
        Ok(())
    }
}
