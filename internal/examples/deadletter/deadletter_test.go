package deadletter_test

import (
	"os"
	"strings"
	"testing"

	"go-micro-jetstream/internal/examples/proc"
)

var binary string

func TestMain(m *testing.M) { os.Exit(proc.Main(m, "deadletter", &binary)) }

func TestTheDeadAreListed(t *testing.T) {
	t.Parallel()
	code, out, stderr := proc.Start(t, binary, nil).Wait()
	for _, line := range []string{
		"order 1 over 20: delivery 1\n", "order 1 charged\n",
		"order 2 over -5: delivery 1\n",
		"order 2 is a dead letter: given up by payments, deadletter-demo.orders, deliveries: 1, reason: negative amount\n",
		"order 3 over 5000: delivery 1\n", "order 3 over 5000: delivery 2\n", "order 3 over 5000: delivery 3\n",
		"order 3 is a dead letter: given up by payments, deadletter-demo.orders, deliveries: 3, reason: limit exceeded\n",
	} {
		if code != 0 || strings.Count(out, line) != 1 {
			t.Fatalf("exit %d without %q once\n%s%s", code, line, out, stderr)
		}
	}
}
