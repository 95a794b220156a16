//! Socket options that `socket2` has no name for.

use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd};

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

/// Makes `program` choose the socket of a SO_REUSEPORT group that a packet goes to, by its place in the group.
pub(super) fn steer(socket: BorrowedFd<'_>, program: &mut [libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: u16::try_from(program.len())
            .map_err(|_| io::Error::other("the steering program is too long"))?,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: why not safe code: neither std nor socket2 offers SO_ATTACH_REUSEPORT_CBPF. Invariants: the descriptor is open
    // (it is borrowed); the pointer is to a live `sock_fprog` on our stack and the length is exactly its size; its `filter`
    // points to `len` live instructions, borrowed mutably for the call; the kernel copies both during the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const program).cast(),
            mem::size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// An event counter that does not block (`eventfd`).
pub(super) fn event() -> io::Result<File> {
    // SAFETY: why not safe code: std has no eventfd. Invariants: the call takes no pointers; a descriptor that is not negative
    // was just opened for us and is owned by nobody else.
    unsafe {
        match libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) {
            -1 => Err(io::Error::last_os_error()),
            event => Ok(File::from_raw_fd(event)),
        }
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
