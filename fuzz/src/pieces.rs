//! Cuts an input into the pieces it arrives in.

/// The stream that `data` holds, in pieces: the first byte says how many cuts there are (modulo 16), each cut is two
/// bytes (big-endian, modulo the stream's length plus one), and the rest is the stream. Pieces may be empty.
pub(crate) fn pieces(data: &[u8]) -> Vec<&[u8]> {
    let Some((count, rest)) = data.split_first() else {
        return vec![data];
    };
    let wanted = usize::from(count % 16) * 2;
    let (cuts, stream) = rest.split_at(wanted.min(rest.len()));
    let mut places: Vec<usize> = cuts
        .chunks_exact(2)
        .map(|cut| usize::from(u16::from_be_bytes([cut[0], cut[1]])) % (stream.len() + 1))
        .collect();
    places.extend([0, stream.len()]);
    places.sort_unstable();
    places
        .windows(2)
        .map(|pair| &stream[pair[0]..pair[1]])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::pieces;

    #[test]
    fn pieces_are_the_stream() {
        assert_eq!(pieces(&[]), [&[] as &[u8]]);
        assert_eq!(pieces(&[0, 7, 8]), [&[7, 8]]);
        assert_eq!(
            pieces(&[2, 0, 1, 0, 3, 7, 8, 9, 10]),
            [&[7][..], &[8, 9], &[10]]
        );
        assert_eq!(pieces(&[15, 0]), [&[] as &[u8]]);
    }
}
