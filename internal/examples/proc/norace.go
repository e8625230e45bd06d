//go:build !race

package proc

// raceDetector says whether the test is built with the race detector.
const raceDetector = false
