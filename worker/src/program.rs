//! The program that this process runs, for the certificate of what it has a part in.

use std::fs::File;
use std::io::Read;

use medley_common::identity::Digest;
use sha2::{Digest as _, Sha256};

/// Bytes that are read at a time.
const CHUNK: usize = 1 << 20;

/// SHA-256 of the program of this process. Blocks.
///
/// # Errors
/// It cannot be read.
pub fn digest() -> std::io::Result<Digest> {
    // The program that runs, even where another one has taken its place on the disk.
    let mut file = File::open("/proc/self/exe").or_else(|_| File::open(std::env::current_exe()?))?;
    let mut hash = Sha256::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(Digest(hash.finalize().into())),
            count => hash.update(&chunk[..count]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_that_of_the_file() {
        let bytes = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(digest().unwrap(), Digest(Sha256::digest(bytes).into()));
    }
}
