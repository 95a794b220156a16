//! Socket options that `socket2` has no name for.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Sets an integer option.
pub(super) fn set(socket: BorrowedFd<'_>, level: i32, name: i32, value: i32) -> io::Result<()> {
    // SAFETY: why not safe code: neither std nor socket2 offers UDP_GRO, UDP_SEGMENT or IP_MTU_DISCOVER. Invariants: the
    // descriptor is open (it is borrowed); the pointer is to a live i32 on our stack and the length is exactly its size;
    // the kernel reads from it only during the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            mem::size_of::<i32>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Reads an integer option.
pub(super) fn get(socket: BorrowedFd<'_>, level: i32, name: i32) -> io::Result<i32> {
    let mut value = 0_i32;
    let mut length = mem::size_of::<i32>() as libc::socklen_t;
    // SAFETY: why not safe code: neither std nor socket2 offers UDP_SEGMENT or IP_MTU. Invariants: the descriptor is open
    // (it is borrowed); both pointers are to live, initialised variables on our stack; `length` holds the size of `value`,
    // so the kernel writes no more than that.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw mut value).cast(),
            &raw mut length,
        )
    };
    if result == 0 {
        Ok(value)
    } else {
        Err(io::Error::last_os_error())
    }
}
