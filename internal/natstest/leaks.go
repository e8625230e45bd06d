package natstest

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
)

// parallel is the flag of go test for the number of tests at the same time.
const parallel = "test.parallel"

// perProcessor is how many tests run at the same time for each processor. Most
// tests wait for a server, so more than one each makes the run shorter.
const perProcessor = 3

// Main runs the tests of a package and returns the exit code for TestMain. If
// all have passed it waits until nothing is left in Goroutines, and fails the
// run if that does not happen. It runs more tests at the same time than go test
// does, unless -parallel says how many.
func Main(m *testing.M) (code int) {
	flag.Parse()
	asked := false
	flag.Visit(func(f *flag.Flag) { asked = asked || f.Name == parallel })
	if !asked {
		if err := flag.Set(parallel, strconv.Itoa(perProcessor*runtime.GOMAXPROCS(0))); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 2
		}
	}
	if code = m.Run(); code != 0 {
		return code
	}
	for deadline := time.Now().Add(Patience); ; time.Sleep(10 * time.Millisecond) {
		left := Goroutines()
		if len(left) == 0 {
			return 0
		}
		if time.Now().After(deadline) {
			fmt.Fprintf(os.Stderr, "goroutines left behind:\n%s\n", strings.Join(left, "\n\n"))
			return 1
		}
	}
}

// Goroutines returns the stacks of the goroutines that run, or were started by,
// code of the NATS client or of this module. Code of its tests and of this
// package does not count, nor does the embedded server, which ends its
// goroutines whenever it pleases.
func Goroutines() (stacks []string) {
	buf := make([]byte, 1<<20)
	n := runtime.Stack(buf, true)
	for n == len(buf) { // there was more
		buf = make([]byte, 2*len(buf))
		n = runtime.Stack(buf, true)
	}
	for stack := range strings.SplitSeq(strings.TrimSpace(string(buf[:n])), "\n\n") {
		if counts(stack) {
			stacks = append(stacks, stack)
		}
	}
	return stacks
}

// counts says whether a stack counts for Goroutines. A function has two lines in
// it: its name with its arguments, and then, indented, its place.
func counts(stack string) bool {
	lines := strings.Split(stack, "\n")
	for i, place := range lines {
		if i == 0 || !strings.HasPrefix(place, "\t") {
			continue
		}
		function := strings.TrimPrefix(lines[i-1], "created by ")
		ours := strings.HasPrefix(function, module) && !strings.HasPrefix(function, here) && !strings.Contains(place, "_test.go:")
		if ours || strings.HasPrefix(function, client) || strings.HasPrefix(function, clientPackages) {
			return true
		}
	}
	return false
}

// What the names of functions begin with. The runtime escapes a dot in the last
// element of a package's path.
const (
	client         = "github.com/nats-io/nats%2ego."
	clientPackages = "github.com/nats-io/nats.go/"
	module         = "go-micro-jetstream/"
	here           = module + "internal/natstest."
)
