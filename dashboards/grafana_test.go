package dashboards_test

import (
	"fmt"
	"regexp"
	"strings"
	"time"
)

// This file computes what Grafana's Prometheus data source makes of a query before it
// sends it: steps and $__rate_interval as in pkg/promlib/models/query.go, values of
// variables as in @grafana/prometheus (escaping.ts) and @grafana/scenes.

// viewer is somebody who looks at a dashboard. The data source is at its default: it
// takes 15 s for the scrape interval.
type viewer struct {
	screen  int           // width of the browser, in pixels
	looksAt time.Duration // the time range
	scrape  string        // the choice of the variable; empty: auto
	fixed   bool          // Grafana 12.4 or later, where the minimum step is the step
}

func (v viewer) String() string {
	choice := v.scrape
	if choice == "" {
		choice = "auto"
	}
	return fmt.Sprintf("%d pixels, last %v, scrape interval %s, fixed step %v", v.screen, v.looksAt, choice, v.fixed)
}

const sourceInterval = 15 * time.Second

// minStep is the value of the variable of the dashboard.
func (v viewer) minStep(scrape variable) time.Duration {
	if v.scrape != "" {
		d, _ := time.ParseDuration(v.scrape)
		return d
	}
	least, _ := time.ParseDuration(scrape.AutoMin)
	return max(least, roundInterval(v.looksAt/time.Duration(scrape.AutoCount)))
}

// intervals are the step of a query in a panel of this width, and $__rate_interval.
func (v viewer) intervals(gridWidth int, minStep time.Duration) (step, rate time.Duration) {
	points := time.Duration(max(v.screen*gridWidth/24, 100))
	if v.screen < 768 { // panels are below each other
		points = time.Duration(v.screen)
	}
	interval := max(roundInterval(v.looksAt/points), sourceInterval)
	step = max(interval, minStep)
	if v.fixed {
		step = minStep
	}
	return step, max(interval+minStep, 4*minStep)
}

// rounded are the intervals that Grafana uses, with the upper end of what it rounds to
// each.
var rounded = []struct{ below, to time.Duration }{
	{1500 * time.Millisecond, time.Second},
	{3500 * time.Millisecond, 2 * time.Second},
	{7500 * time.Millisecond, 5 * time.Second},
	{12500 * time.Millisecond, 10 * time.Second},
	{17500 * time.Millisecond, 15 * time.Second},
	{25 * time.Second, 20 * time.Second},
	{45 * time.Second, 30 * time.Second},
	{90 * time.Second, time.Minute},
	{210 * time.Second, 2 * time.Minute},
	{450 * time.Second, 5 * time.Minute},
	{750 * time.Second, 10 * time.Minute},
	{1050 * time.Second, 15 * time.Minute},
	{1500 * time.Second, 20 * time.Minute},
	{2700 * time.Second, 30 * time.Minute},
	{90 * time.Minute, time.Hour},
	{150 * time.Minute, 2 * time.Hour},
	{270 * time.Minute, 3 * time.Hour},
	{9 * time.Hour, 6 * time.Hour},
}

func roundInterval(d time.Duration) time.Duration {
	for _, r := range rounded {
		if d < r.below {
			return r.to
		}
	}
	return 12 * time.Hour
}

var special = regexp.MustCompile(`[$^*{}\[\]+?.()|]`)

// chosenValues is what a query gets for a variable. None chosen is All.
func chosenValues(v variable, format string, values ...string) string {
	if len(values) == 0 {
		return v.AllValue // as it is
	}
	if format == "pipe" {
		return strings.Join(values, "|")
	}
	escaped := make([]string, len(values))
	for i, value := range values {
		escaped[i] = special.ReplaceAllString(strings.ReplaceAll(value, `\`, `\\\\`), `\\$0`)
	}
	if len(escaped) == 1 {
		return escaped[0]
	}
	return "(" + strings.Join(escaped, "|") + ")"
}
