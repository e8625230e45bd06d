package main

import (
	"fmt"
	"strings"
	"time"
)

// shownNumbers is how many order numbers, or dead letters, a list shows at most.
const shownNumbers = 10

// summary is the final state of the ledger. All counts are of distinct order ids.
type summary struct {
	published, shipped, dead int
	missing                  []int // numbers of orders that were published and never arrived
	twice                    []int // numbers of orders that arrived more than once
	letters                  []deadLetter
	took                     []time.Duration // until an order was shipped; sorted
	unconfirmed              int             // arrived, although their publish was not acknowledged
	foreign                  int             // of another run
}

// complete reports whether every published order arrived, either shipped or as a
// dead letter.
func (s *summary) complete() bool {
	return len(s.missing) == 0 && s.published == s.shipped+s.dead
}

// String shows the count of the orders, and how many deliveries they took.
func (s *summary) String(r row, ran time.Duration) string {
	var b strings.Builder
	line := func(label string, value any, more string) {
		b.WriteString(strings.TrimRight(fmt.Sprintf("  %-16s %9v  %s", label, value, more), " ") + "\n")
	}
	fmt.Fprintf(&b, "\nSummary after %s\n\n", round(ran))
	line("published", s.published, "orders, by distinct id")
	line("shipped", s.shipped, s.latency())
	line("dead-lettered", s.dead, "")
	line("missing", len(s.missing), numbers(s.missing))
	line("arrived twice", len(s.twice), numbers(s.twice))
	if s.unconfirmed > 0 {
		line("unconfirmed", s.unconfirmed, "arrived, though their publish was not confirmed; not counted above")
	}
	if s.foreign > 0 {
		line("foreign", s.foreign, "orders of another run")
	}
	b.WriteByte('\n')
	line("handled", r.handled, "deliveries")
	line("failed", r.failed, fmt.Sprintf("of them, %d by a panic", r.panicked))
	line("redelivered", r.redelivered, "")
	if len(s.letters) > 0 {
		fmt.Fprintf(&b, "\n  dead letters\n")
		for i, d := range s.letters {
			if i == shownNumbers {
				fmt.Fprintf(&b, "    and %d more\n", len(s.letters)-i)
				break
			}
			fmt.Fprintf(&b, "    order %-6d %s, queue %s, %d deliveries: %s\n", d.number, d.topic, d.queue, d.deliveries, d.reason)
		}
	}
	verdict, sign := "every order arrived", "="
	if !s.complete() {
		verdict = "NOT every order arrived"
		if s.published != s.shipped+s.dead {
			sign = "!="
		}
	}
	fmt.Fprintf(&b, "\n%d published %s %d shipped + %d dead-lettered: %s.\n", s.published, sign, s.shipped, s.dead, verdict)
	return b.String()
}

// latency describes how long orders took until they were shipped.
func (s *summary) latency() string {
	if len(s.took) == 0 {
		return ""
	}
	at := func(q float64) time.Duration { return s.took[int(q*float64(len(s.took)-1))] }
	return fmt.Sprintf("after %s (median), %s (p99), %s at most", round(at(.5)), round(at(.99)), round(at(1)))
}

// numbers lists the first few order numbers.
func numbers(list []int) string {
	if len(list) == 0 {
		return ""
	}
	text, more := "order ", ""
	if len(list) > 1 {
		text = "orders "
	}
	if len(list) > shownNumbers {
		list, more = list[:shownNumbers], " ..."
	}
	return text + strings.Trim(fmt.Sprint(list), "[]") + more
}

// round formats a duration with about three digits. More would be noise.
func round(d time.Duration) string {
	switch {
	case d >= time.Minute:
		return d.Round(time.Second).String()
	case d >= time.Second:
		return fmt.Sprintf("%.2f s", d.Seconds())
	}
	return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
}
