//! Huge pages for large buffers: touching fresh memory in pages of 4 KB costs as much as many
//! operations here do.

/// Size of a huge page on the systems in question.
#[cfg(target_os = "linux")]
const HUGE: usize = 2 << 20;

/// Asks the system for huge pages behind a buffer of `len` elements that has just been allocated.
/// Only a hint: nothing changes where the system does not offer them or the buffer is small.
#[cfg(target_os = "linux")]
pub(crate) fn prefer_huge<T>(buffer: *mut T, len: usize) {
    let start = (buffer as usize).next_multiple_of(HUGE);
    let end = (buffer as usize + len * size_of::<T>()) / HUGE * HUGE;
    if end > start {
        // SAFETY: the range lies within the caller's allocation, and MADV_HUGEPAGE does not change
        // its contents.
        unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_HUGEPAGE) };
    }
}

/// No such hint here.
#[cfg(not(target_os = "linux"))]
pub(crate) fn prefer_huge<T>(_buffer: *mut T, _len: usize) {}

/// An empty vector with room for `len` elements.
pub(crate) fn vec_with_room<T>(len: usize) -> Vec<T> {
    let mut vec = Vec::with_capacity(len);
    prefer_huge(vec.as_mut_ptr(), len);
    vec
}
