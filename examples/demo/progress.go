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
	screenInterval = 200 * time.Millisecond // on a terminal, where the row is overwritten
	lineInterval   = 2 * time.Second        // elsewhere, where each row is a new line
)

// row is a snapshot: orders from the ledger, deliveries from the metrics.
type row struct {
	counts
	handled, failed, redelivered, pending int
	panicked                              int // included in failed
}

// sample takes a snapshot. The deliveries come from the registry behind /metrics.
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

// progress prints a table of rows. On a terminal it overwrites the last row instead
// of adding new ones. Notes and blocks of text can interrupt the table.
type progress struct {
	out       io.Writer
	terminal  bool
	began     time.Time
	read      func() row
	ticker    *time.Ticker
	hasHeader bool // the header is directly above the rows
	open      bool // the row has no line break yet and may be overwritten
	afterNote bool // the last output was a note
	last      row
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

// update prints the current row.
func (p *progress) update() { p.show(p.read()) }

func (p *progress) show(r row) {
	p.last = r
	if !p.hasHeader {
		fmt.Fprintf(p.out, "\n%s\n", rowHeader)
		p.hasHeader, p.afterNote = true, false
	}
	line := fmt.Sprintf("%7.1fs  %s", time.Since(p.began).Seconds(), r)
	if p.terminal {
		fmt.Fprint(p.out, "\r", line)
		p.open = true
		return
	}
	fmt.Fprintln(p.out, line)
}

// note prints a line of text between the rows.
func (p *progress) note(text string) {
	p.interrupt(text, p.afterNote)
	p.afterNote = true
}

// block prints several lines of text between the rows.
func (p *progress) block(text string) {
	p.interrupt(text, false)
	p.afterNote = false
}

// interrupt ends the table and prints the text below it, after an empty line unless
// the text continues what is above.
func (p *progress) interrupt(text string, continues bool) {
	if p.open {
		fmt.Fprintln(p.out)
		p.open = false
	}
	if !continues {
		fmt.Fprintln(p.out)
	}
	fmt.Fprintln(p.out, strings.TrimRight(text, "\n"))
	p.hasHeader = false // now too far up
}

// finish prints the last row, with the number of messages that were pending when
// the services were stopped.
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
