//! What the `caplane` command is made of, as a library, so that end-to-end
//! tests start the same fabric and issue the same certificates.

pub mod pki;
