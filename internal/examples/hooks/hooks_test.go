package hooks_test

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"go-micro-jetstream/internal/examples/proc"
	"go-micro-jetstream/internal/natstest"
)

var binary string

func TestMain(m *testing.M) { os.Exit(proc.Main(m, "hooks", &binary)) }

func TestTheAuditLog(t *testing.T) {
	t.Parallel()
	theAuditLog(t, nil)
}

// A server keeps message ids for two minutes: those of a second run are others.
func TestTwiceOnOneServer(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	for range 2 {
		theAuditLog(t, []string{"NATS_URL=" + s.ClientURL()})
	}
}

// theAuditLog is that of one order and its invoice.
func theAuditLog(t *testing.T, env []string) {
	t.Helper()
	code, out, stderr := proc.Start(t, binary, env).Wait()
	if code != 0 {
		t.Fatalf("exit %d\n%s%s", code, out, stderr)
	}
	var got []string
	number := ""
	for line := range strings.Lines(out) {
		var e struct {
			Msg, Actor, Topic, ID, Result, Failed string
			Delivery                              int
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			continue // go-micro's log
		}
		if n, ok := strings.CutPrefix(e.ID, "order-"); ok {
			number = n
		}
		got = append(got, fmt.Sprint(e.Msg, " ", e.Topic, " ", e.ID, " by ", e.Actor, " ", e.Result, e.Failed, e.Delivery))
	}
	slices.Sort(got) // a message may be handled before its Publish has returned
	want := []string{
		"handled orders.created order-" + number + " by alice ack2",
		"handled orders.created order-" + number + " by alice nak1",
		"published invoices.sent invoice-" + number + " by alice 0",
		"published orders.created order-" + number + " by alice 0",
	}
	if number == "" || !slices.Equal(got, want) {
		t.Fatalf("got\n%s\nwant\n%s\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"), out)
	}
}
