//! Lines of a stream, of a bounded length.

use std::io;

use tokio::io::{AsyncBufRead, AsyncBufReadExt as _};

/// One line without its end; one over `max` bytes is read past and reported. None at the end. Not to
/// be broken off and called again: what it has read of a line would be lost.
pub(super) async fn read_line(
    input: &mut (impl AsyncBufRead + Unpin),
    max: usize,
) -> io::Result<Option<Result<Vec<u8>, String>>> {
    let mut line = Vec::new();
    let mut length = 0u64;
    loop {
        let buffer = input.fill_buf().await?;
        if buffer.is_empty() {
            if length == 0 {
                return Ok(None);
            }
            break; // the last line, without its end
        }
        let end = buffer.iter().position(|b| *b == b'\n');
        let part = buffer.get(..end.unwrap_or(buffer.len())).unwrap_or(buffer);
        length += part.len() as u64;
        if length <= max as u64 {
            line.extend_from_slice(part);
        }
        let used = part.len() + usize::from(end.is_some());
        input.consume(used);
        if end.is_some() {
            break;
        }
    }
    if length > max as u64 {
        return Ok(Some(Err(format!(
            "line of {length} bytes, more than {max}"
        ))));
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    Ok(Some(Ok(line)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn long_lines_are_read_past_whatever_the_pieces() {
        for piece in 1..20 {
            let bytes: &[u8] = b"ab\r\n0123456789\n\nlast";
            let mut input = tokio::io::BufReader::with_capacity(piece, bytes);
            let mut next = async || read_line(&mut input, 5).await.unwrap();
            assert_eq!(next().await, Some(Ok(b"ab".to_vec())));
            let error = next().await.unwrap().unwrap_err();
            assert_eq!(error, "line of 10 bytes, more than 5");
            assert_eq!(next().await, Some(Ok(Vec::new())));
            assert_eq!(next().await, Some(Ok(b"last".to_vec())));
            assert_eq!(next().await, None);
        }
    }
}
