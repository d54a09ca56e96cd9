//! The form of an MP4 file (ISO/IEC 14496-12, 4.2): boxes within boxes, all numbers big-endian. Called by `header` and `fragment`.

/// Appends these numbers, four bytes each.
pub(super) fn put(out: &mut Vec<u8>, words: &[u32]) {
    for word in words {
        out.extend_from_slice(&word.to_be_bytes());
    }
}

/// Appends these numbers, two bytes each.
pub(super) fn put_short(out: &mut Vec<u8>, words: &[u16]) {
    for word in words {
        out.extend_from_slice(&word.to_be_bytes());
    }
}

/// Appends a box: its size, its name, its content.
pub(super) fn atom(out: &mut Vec<u8>, name: &[u8; 4], content: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    put(out, &[0]);
    out.extend_from_slice(name);
    content(out);
    let size = to_u32((out.len() - start) as u64);
    out[start..start + 4].copy_from_slice(&size.to_be_bytes());
}

/// Saturates: no camera makes a file or a frame that large.
pub(super) fn to_u32(n: u64) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
