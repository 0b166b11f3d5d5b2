//! The vocabulary: ids, times, values, batches, records, commands and their wire codec
