package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	screenInterval = 200 * time.Millisecond // rewrites the line of a terminal
	lineInterval   = 2 * time.Second        // writes a line elsewhere
)

// row is a moment: orders by the ledger, deliveries by the metrics.
type row struct {
	counts
	handled, failed, redelivered, pending int
	panicked                              int // among the failed
}

// sample reads the deliveries from the registry that /metrics shows.
func sample(books *ledger, registry prometheus.Gatherer) row {
	sum := totals(registry)
	value := func(name string) int { return int(sum["micro_broker_"+name]) }
	return row{
		counts:      books.soFar(),
		handled:     value("handled_total"),
		failed:      value("handler_errors_total") + value("handler_panics_total"),
		redelivered: value("redelivered_total"),
		pending:     value("pending"),
		panicked:    value("handler_panics_total"),
	}
}

const rowHeader = "    time   published    shipped   dead    handled   failed   redelivered   pending"

func (r row) String() string {
	return fmt.Sprintf("%10d %10d %6d %10d %8d %13d %9d", r.published, r.shipped, r.dead, r.handled, r.failed, r.redelivered, r.pending)
}

// progress is a table that grows by a line now and then, or, on a terminal, has
// one line that changes.
type progress struct {
	out      io.Writer
	terminal bool
	began    time.Time
	read     func() row
	ticker   *time.Ticker
	header   bool // is above
	open     bool // the line may still change
	noted    bool // the last thing was a note
	last     row
}

func newProgress(out io.Writer, began time.Time, read func() row) *progress {
	p := &progress{out: out, began: began, read: read}
	interval := lineInterval
	if f, ok := out.(*os.File); ok {
		if info, err := f.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
			p.terminal, interval = true, screenInterval
		}
	}
	p.ticker = time.NewTicker(interval)
	return p
}

func (p *progress) tick() <-chan time.Time { return p.ticker.C }

// update shows how things are now.
func (p *progress) update() { p.show(p.read()) }

func (p *progress) show(r row) {
	p.last = r
	if !p.header {
		fmt.Fprintf(p.out, "\n%s\n", rowHeader)
		p.header, p.noted = true, false
	}
	line := fmt.Sprintf("%7.1fs  %s", time.Since(p.began).Seconds(), r)
	if p.terminal {
		fmt.Fprint(p.out, "\r", line)
		p.open = true
		return
	}
	fmt.Fprintln(p.out, line)
}

// note puts a line between the rows.
func (p *progress) note(text string) {
	p.interrupt(text, p.noted)
	p.noted = true
}

// block puts several lines between the rows.
func (p *progress) block(text string) {
	p.interrupt(text, false)
	p.noted = false
}

func (p *progress) interrupt(text string, follows bool) {
	if p.open {
		fmt.Fprintln(p.out)
		p.open = false
	}
	if !follows {
		fmt.Fprintln(p.out)
	}
	fmt.Fprintln(p.out, strings.TrimRight(text, "\n"))
	p.header = false // too far up now
}

// finish writes the last line, with what was pending when all was stopped.
func (p *progress) finish(pending int) {
	p.ticker.Stop()
	r := p.read()
	r.pending = pending
	p.show(r)
	if p.open {
		fmt.Fprintln(p.out)
		p.open = false
	}
}
