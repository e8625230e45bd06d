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

// The dimensions of the picture, in pixels.
const (
	pictureWidth = 1000
	rowHeight    = 28
	chartTop     = 84
	chartLeft    = 320
	chartRight   = pictureWidth - 24
	indent       = 14 // per level of the tree
	cutWidth     = 64 // of a pause that is cut out
	labelWidth   = 70 // of the label of a time, at most
)

// Colours that people with colour blindness can tell apart. A failure also has a word
// beside it.
var (
	serviceColours = []string{"#0072b2", "#e69f00", "#009e73", "#cc79a7"}
	failureColour  = "#c4162a"
)

// waterfall draws the trace as an SVG. The picture has a background of its own,
// because the page around it may be light or dark. A long pause in which no span runs
// is cut out and labelled with its length. Otherwise it would leave no room for the
// spans.
func (t *tree) waterfall() string {
	lines := t.lines()
	p := &picture{
		tree:    t,
		lines:   lines,
		axis:    newTimeAxis(t, lines),
		colours: map[string]string{},
		bottom:  chartTop + rowHeight*len(lines) + 14,
	}
	p.drawHeader()
	p.drawAxis()
	branchTop := map[int]int{} // by depth, the lower edge of the last span's name
	for i, l := range lines {
		y := chartTop + rowHeight*i + rowHeight/2
		p.drawName(l, y, branchTop)
		p.drawSpan(l, y)
	}
	p.svg.WriteString("</svg>\n")
	return p.svg.String()
}

// picture is an SVG that is being drawn.
type picture struct {
	tree    *tree
	lines   []line
	axis    *timeAxis
	colours map[string]string // by service
	bottom  int               // of the chart
	svg     strings.Builder
}

// text draws a text with these attributes.
func (p *picture) text(x float64, y int, attributes, s string) {
	fmt.Fprintf(&p.svg, "<text x=\"%.1f\" y=\"%d\" %s>%s</text>\n", x, y, attributes, escape(s))
}

// drawHeader draws the frame, the title, and the legend of the services. It also
// assigns a colour to each service.
func (p *picture) drawHeader() {
	height := p.bottom + 16
	fmt.Fprintf(&p.svg, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %[1]d %[2]d" font-family="Helvetica, Arial, sans-serif" font-size="13" fill="#1f2328">
<title>One order through all services, trace %[3]s</title>
<rect x="0.5" y="0.5" width="%[4]d" height="%[5]d" rx="6" fill="#ffffff" stroke="#d0d7de"/>
`, pictureWidth, height, p.tree.id, pictureWidth-1, height-1)
	fmt.Fprintf(&p.svg, `<text x="20" y="30"><tspan font-size="15" font-weight="bold">One order through all services</tspan><tspan dx="16" fill="#59636e">trace %s</tspan></text>
`, p.tree.id)
	for _, l := range p.lines {
		service := serviceOf(l.span)
		if p.colours[service] != "" {
			continue
		}
		n := len(p.colours)
		p.colours[service] = serviceColours[n%len(serviceColours)]
		x := 20 + 100*n
		fmt.Fprintf(&p.svg, "<rect x=\"%d\" y=\"48\" width=\"12\" height=\"12\" rx=\"2\" fill=\"%s\"/>\n", x, p.colours[service])
		p.text(float64(x+18), 59, "", service)
	}
}

// drawAxis draws the times at which the stretches of the axis begin, and the pauses
// between them.
func (p *picture) drawAxis() {
	free := 0.0 // right of the last label
	for _, at := range p.axis.starts() {
		x := p.axis.x(at)
		fmt.Fprintf(&p.svg, "<path d=\"M%.1f %dV%d\" stroke=\"#d0d7de\"/>\n", x, chartTop, p.bottom)
		if x >= free {
			p.text(x, chartTop-6, `fill="#59636e" font-size="12"`, "+"+round(at))
			free = x + labelWidth
		}
	}
	for _, c := range p.axis.cuts {
		x := p.axis.x(c.from)
		fmt.Fprintf(&p.svg, "<rect x=\"%.1f\" y=\"%d\" width=\"%d\" height=\"%d\" fill=\"#eff2f5\"/>\n", x, chartTop, cutWidth, p.bottom-chartTop)
		p.text(x+cutWidth/2, p.bottom-4, `text-anchor="middle" fill="#59636e" font-size="12"`, round(c.to-c.from))
	}
}

// drawName draws the name of a span around the height y, and the branch that connects
// it to its parent. branchTop says for each depth where such a branch begins.
func (p *picture) drawName(l line, y int, branchTop map[int]int) {
	if l.depth > 0 {
		fmt.Fprintf(&p.svg, "<path d=\"M%d %dV%dh8\" fill=\"none\" stroke=\"#afb8c1\"/>\n", 10+indent*l.depth, branchTop[l.depth-1], y)
	}
	branchTop[l.depth] = y + 10
	p.text(float64(20+indent*l.depth), y+5, "", l.span.Name())
}

// drawSpan draws the bar of a span around the height y. The label, its duration and
// what is unusual about it, goes to the side with more room.
func (p *picture) drawSpan(l line, y int) {
	from, to := p.axis.x(l.start(p.tree)), p.axis.x(l.start(p.tree)+l.duration())
	to = max(to, from+3) // a shorter bar would be invisible
	stroke, label, labelFill := "none", round(l.duration()), "#59636e"
	if r := remark(l.span); r != "" {
		label += " · " + r
	}
	if l.span.Status().Code == codes.Error {
		stroke, labelFill = failureColour, failureColour
	}
	fmt.Fprintf(&p.svg, "<rect x=\"%.1f\" y=\"%d\" width=\"%.1f\" height=\"14\" rx=\"2\" fill=\"%s\" stroke=\"%s\" stroke-width=\"2\"/>\n",
		from, y-7, to-from, p.colours[serviceOf(l.span)], stroke)
	if from > (chartLeft+chartRight)/2 {
		p.text(from-8, y+5, fmt.Sprintf(`text-anchor="end" fill="%s"`, labelFill), label)
	} else {
		p.text(to+8, y+5, fmt.Sprintf(`fill="%s"`, labelFill), label)
	}
}

// escape makes a text safe to use in XML.
func escape(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s))
	return b.String()
}

// timeAxis maps the time since the start of the trace to a position in the picture.
type timeAxis struct {
	cuts  []period // the pauses that are cut out
	scale float64  // pixels per nanosecond
}

// period is a stretch of time since the start of the trace.
type period struct{ from, to time.Duration }

// newTimeAxis cuts out every pause that is longer than the time in which any span
// runs.
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

// x returns the position of a time, in pixels.
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

// starts returns the times at which the stretches between the cuts begin.
func (a *timeAxis) starts() []time.Duration {
	starts := []time.Duration{0}
	for _, c := range a.cuts {
		starts = append(starts, c.to)
	}
	return starts
}
