package main

import (
	"cmp"
	"encoding/xml"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/otel/codes"
)

// The measures of the picture, in pixels.
const (
	pictureWidth = 1000
	rowHeight    = 28
	chartTop     = 84
	chartLeft    = 320
	chartRight   = pictureWidth - 24
	cutWidth     = 64 // of a pause that is cut out
	labelWidth   = 70 // of a time, at most
)

// Colours that people tell apart who cannot tell red from green, and the one of
// failures, which also has a word beside it.
var (
	serviceColours = []string{"#0072b2", "#e69f00", "#009e73", "#cc79a7"}
	failureColour  = "#c4162a"
)

// waterfall draws the trace as an SVG. It has a background of its own: the page
// around it may be light or dark. A long time in which no span runs is cut out,
// and it says how long that was: nothing else could be seen beside it.
func (t *tree) waterfall() string {
	lines := t.lines()
	axis := newTimeAxis(t, lines)
	colours := map[string]string{}
	var services []string
	for _, l := range lines {
		if s := serviceOf(l.span); colours[s] == "" {
			colours[s] = serviceColours[len(colours)%len(serviceColours)]
			services = append(services, s)
		}
	}

	var b strings.Builder
	chartBottom := chartTop + rowHeight*len(lines) + 14
	height := chartBottom + 16
	text := func(x float64, y int, attributes, s string) {
		fmt.Fprintf(&b, "<text x=\"%.1f\" y=\"%d\" %s>%s</text>\n", x, y, attributes, escape(s))
	}
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %[1]d %[2]d" font-family="Helvetica, Arial, sans-serif" font-size="13" fill="#1f2328">
<title>One order through all services, trace %[3]s</title>
<rect x="0.5" y="0.5" width="%[4]d" height="%[5]d" rx="6" fill="#ffffff" stroke="#d0d7de"/>
`, pictureWidth, height, t.id, pictureWidth-1, height-1)
	fmt.Fprintf(&b, `<text x="20" y="30"><tspan font-size="15" font-weight="bold">One order through all services</tspan><tspan dx="16" fill="#59636e">trace %s</tspan></text>
`, t.id)
	for i, s := range services {
		x := 20 + 100*i
		fmt.Fprintf(&b, "<rect x=\"%d\" y=\"48\" width=\"12\" height=\"12\" rx=\"2\" fill=\"%s\"/>\n", x, colours[s])
		text(float64(x+18), 59, "", s)
	}
	free := 0.0 // to the right of the last label
	for _, at := range axis.starts() {
		x := axis.x(at)
		fmt.Fprintf(&b, "<path d=\"M%.1f %dV%d\" stroke=\"#d0d7de\"/>\n", x, chartTop, chartBottom)
		if x >= free {
			text(x, chartTop-6, `fill="#59636e" font-size="12"`, "+"+round(at))
			free = x + labelWidth
		}
	}
	for _, c := range axis.cuts {
		x := axis.x(c.from)
		fmt.Fprintf(&b, "<rect x=\"%.1f\" y=\"%d\" width=\"%d\" height=\"%d\" fill=\"#eff2f5\"/>\n", x, chartTop, cutWidth, chartBottom-chartTop)
		text(x+cutWidth/2, chartBottom-4, `text-anchor="middle" fill="#59636e" font-size="12"`, round(c.to-c.from))
	}
	below := map[int]int{} // where the lines to the children of the last span of a depth begin
	for i, l := range lines {
		middle := chartTop + rowHeight*i + rowHeight/2
		from, to := axis.x(l.start(t)), axis.x(l.start(t)+l.duration())
		to = max(to, from+3) // or it could not be seen
		stroke, label, labelFill := "none", round(l.duration()), "#59636e"
		if r := remark(l.span); r != "" {
			label += " · " + r
		}
		if l.span.Status().Code == codes.Error {
			stroke, labelFill = failureColour, failureColour
		}
		if l.depth > 0 {
			fmt.Fprintf(&b, "<path d=\"M%d %dV%dh8\" fill=\"none\" stroke=\"#afb8c1\"/>\n", 10+14*l.depth, below[l.depth-1], middle)
		}
		below[l.depth] = middle + 10
		text(float64(20+14*l.depth), middle+5, "", l.span.Name())
		fmt.Fprintf(&b, "<rect x=\"%.1f\" y=\"%d\" width=\"%.1f\" height=\"14\" rx=\"2\" fill=\"%s\" stroke=\"%s\" stroke-width=\"2\"/>\n",
			from, middle-7, to-from, colours[serviceOf(l.span)], stroke)
		if from > (chartLeft+chartRight)/2 {
			text(from-8, middle+5, fmt.Sprintf(`text-anchor="end" fill="%s"`, labelFill), label)
		} else {
			text(to+8, middle+5, fmt.Sprintf(`fill="%s"`, labelFill), label)
		}
	}
	b.WriteString("</svg>\n")
	return b.String()
}

func escape(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s))
	return b.String()
}

// timeAxis maps the time since the trace began to the picture.
type timeAxis struct {
	cuts  []period
	scale float64 // pixels per nanosecond
}

type period struct{ from, to time.Duration }

// newTimeAxis cuts out each idle time that is longer than all busy ones together.
func newTimeAxis(t *tree, lines []line) *timeAxis {
	var spans []period
	for _, l := range lines {
		spans = append(spans, period{l.start(t), l.start(t) + l.duration()})
	}
	slices.SortFunc(spans, func(a, b period) int { return cmp.Compare(a.from, b.from) })
	var idle []period
	var busy, end time.Duration
	for _, p := range spans {
		if p.from > end {
			idle = append(idle, period{end, p.from})
			end = p.from
		}
		busy += max(p.to-end, 0)
		end = max(end, p.to)
	}
	a := &timeAxis{}
	shown := end
	for _, p := range idle {
		if p.to-p.from > busy {
			a.cuts = append(a.cuts, p)
			shown -= p.to - p.from
		}
	}
	a.scale = float64(chartRight-chartLeft-cutWidth*len(a.cuts)) / float64(max(shown, 1))
	return a
}

// x is where a time is.
func (a *timeAxis) x(at time.Duration) float64 {
	x, shown := float64(chartLeft), at
	for _, c := range a.cuts {
		if at >= c.to {
			shown -= c.to - c.from
			x += cutWidth
		}
	}
	return x + a.scale*float64(shown)
}

// starts are the times at which a stretch of the axis begins.
func (a *timeAxis) starts() []time.Duration {
	starts := []time.Duration{0}
	for _, c := range a.cuts {
		starts = append(starts, c.to)
	}
	return starts
}
