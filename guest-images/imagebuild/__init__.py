"""The parts of `guest-images/build`, one step of the build a module."""
