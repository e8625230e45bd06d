package main

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"go-micro-jetstream/examples/internal/proc"
)

var binary string

func TestMain(m *testing.M) { os.Exit(proc.Main(m, &binary)) }

func TestTheAuditLog(t *testing.T) {
	t.Parallel()
	code, out, stderr := proc.Start(t, binary, nil).Wait()
	if code != 0 {
		t.Fatalf("exit %d\n%s%s", code, out, stderr)
	}
	var got []string
	for line := range strings.Lines(out) {
		var e struct {
			Msg, Actor, Topic, ID, Result, Failed string
			Delivery                              int
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			continue // go-micro's log
		}
		got = append(got, fmt.Sprint(e.Msg, " ", e.Topic, " ", e.ID, " by ", e.Actor, " ", e.Result, e.Failed, e.Delivery))
	}
	slices.Sort(got) // a message may be handled before its Publish has returned
	want := []string{
		"handled orders.created order-1 by alice ack2",
		"handled orders.created order-1 by alice nak1",
		"published invoices.sent invoice-1 by alice 0",
		"published orders.created order-1 by alice 0",
	}
	if !slices.Equal(got, want) {
		t.Fatalf("got\n%s\nwant\n%s\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"), out)
	}
}
