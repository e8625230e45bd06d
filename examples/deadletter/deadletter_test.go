package main

import (
	"os"
	"strings"
	"testing"

	"go-micro-jetstream/examples/internal/proc"
)

var binary string

func TestMain(m *testing.M) { os.Exit(proc.Main(m, &binary)) }

func TestTheDeadAreListed(t *testing.T) {
	t.Parallel()
	code, out, stderr := proc.Start(t, binary, nil).Wait()
	for _, line := range []string{
		"order 1 charged, delivery 1\n",
		"order 2 given up by payments after 1 deliveries of orders.created: negative amount\n",
		"order 3 given up by payments after 3 deliveries of orders.created: limit exceeded\n",
	} {
		if code != 0 || strings.Count(out, line) != 1 {
			t.Fatalf("exit %d without %q once\n%s%s", code, line, out, stderr)
		}
	}
}
