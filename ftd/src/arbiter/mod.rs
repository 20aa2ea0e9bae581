//! The atomic test-and-set that decides who may go on alone.
