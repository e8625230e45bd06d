package fanout_test

import (
	"os"
	"slices"
	"strings"
	"testing"

	"go-micro-jetstream/internal/examples/proc"
)

var binary string

func TestMain(m *testing.M) { os.Exit(proc.Main(m, "fanout", &binary)) }

func TestEachQueueGetsEachOrderOnce(t *testing.T) {
	t.Parallel()
	code, out, stderr := proc.Start(t, binary, nil).Wait()
	lines := strings.Split(strings.TrimSpace(out), "\n")[1:] // the first says what to expect
	for i, line := range lines {
		lines[i], _, _ = strings.Cut(line, ", in replica ")
	}
	slices.Sort(lines)
	want := []string{
		"billing got order 1", "billing got order 2", "billing got order 3",
		"shipping got order 1", "shipping got order 2", "shipping got order 3",
	}
	if code != 0 || !slices.Equal(lines, want) {
		t.Fatalf("exit %d\n%s%s", code, out, stderr)
	}
}
