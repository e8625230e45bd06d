package main

import (
	"fmt"
	"hash/fnv"
	"io"
)

// This file holds the part of Grafana's dashboard model that the dashboards use.
// The types are written by hand because they are few. A library for them would
// become a dependency of every service that uses this module.

// object is a JSON object that does not deserve a type of its own. Its keys are
// written in sorted order.
type object = map[string]any

type dashboard struct {
	UID           string     `json:"uid"`
	Title         string     `json:"title"`
	Description   string     `json:"description"`
	Tags          []string   `json:"tags"`
	Editable      bool       `json:"editable"`
	GraphTooltip  int        `json:"graphTooltip"` // 1: all panels share a crosshair
	Refresh       string     `json:"refresh"`
	Time          timeRange  `json:"time"`
	Timezone      string     `json:"timezone"`
	SchemaVersion int        `json:"schemaVersion"`
	Links         []link     `json:"links"`
	Annotations   annotation `json:"annotations"`
	Templating    templating `json:"templating"`
	Panels        []*panel   `json:"panels"`
}

type timeRange struct {
	From string `json:"from"`
	To   string `json:"to"`
}

type link struct {
	Title       string   `json:"title"`
	Type        string   `json:"type"`
	Icon        string   `json:"icon"`
	Tooltip     string   `json:"tooltip"`
	Tags        []string `json:"tags"`
	IncludeVars bool     `json:"includeVars"`
	KeepTime    bool     `json:"keepTime"`
	AsDropdown  bool     `json:"asDropdown"`
	TargetBlank bool     `json:"targetBlank"`
}

type annotation struct {
	List []annotationQuery `json:"list"`
}

type annotationQuery struct {
	Name            string     `json:"name"`
	Datasource      datasource `json:"datasource"`
	Enable          bool       `json:"enable"`
	IconColor       string     `json:"iconColor"`
	Expr            string     `json:"expr"`
	TitleFormat     string     `json:"titleFormat"`
	TextFormat      string     `json:"textFormat"`
	Step            string     `json:"step"`
	UseValueForTime bool       `json:"useValueForTime,omitempty"`
}

type templating struct {
	List []variable `json:"list"`
}

type variable struct {
	Name        string         `json:"name"`
	Label       string         `json:"label"`
	Description string         `json:"description,omitempty"`
	Type        string         `json:"type"`
	Datasource  *datasource    `json:"datasource,omitempty"`
	Query       any            `json:"query"`
	Definition  string         `json:"definition,omitempty"`
	Regex       string         `json:"regex,omitempty"`   // its group is the value
	Refresh     int            `json:"refresh,omitempty"` // 2: whenever the time range changes
	Sort        int            `json:"sort,omitempty"`    // 1: alphabetically
	Multi       bool           `json:"multi"`
	IncludeAll  bool           `json:"includeAll"`
	AllValue    string         `json:"allValue,omitempty"`
	Auto        bool           `json:"auto,omitempty"`       // only in intervals: offer one that follows the time range
	AutoCount   int            `json:"auto_count,omitempty"` // parts that it divides the time range into
	AutoMin     string         `json:"auto_min,omitempty"`   // its least value
	Hide        int            `json:"hide"`                 // 2: hidden, but still part of links
	Current     *current       `json:"current,omitempty"`
	Options     []customOption `json:"options"`
	Filters     *[]object      `json:"filters,omitempty"` // only ad hoc: what is chosen
}

type current struct {
	Text  any `json:"text"`
	Value any `json:"value"`
}

type customOption struct {
	Text     string `json:"text"`
	Value    string `json:"value"`
	Selected bool   `json:"selected"`
}

type datasource struct {
	Type string `json:"type"`
	UID  string `json:"uid"`
}

// prom is the data source selected in the dashboard.
var prom = datasource{Type: "prometheus", UID: "${datasource}"}

type panel struct {
	ID              int         `json:"id"`
	Type            string      `json:"type"`
	Title           string      `json:"title"`
	Description     string      `json:"description,omitempty"`
	GridPos         gridPos     `json:"gridPos"`
	Datasource      *datasource `json:"datasource,omitempty"`
	Targets         []target    `json:"targets,omitempty"`
	FieldConfig     *fields     `json:"fieldConfig,omitempty"`
	Options         object      `json:"options,omitempty"`
	Transformations []object    `json:"transformations,omitempty"`
	Collapsed       *bool       `json:"collapsed,omitempty"` // only in rows
	Panels          *[]*panel   `json:"panels,omitempty"`    // only in rows: the panels that a collapsed row hides
}

type gridPos struct {
	H int `json:"h"`
	W int `json:"w"`
	X int `json:"x"`
	Y int `json:"y"`
}

type target struct {
	RefID        string     `json:"refId"`
	Datasource   datasource `json:"datasource"`
	Expr         string     `json:"expr"`
	LegendFormat string     `json:"legendFormat"`
	Interval     string     `json:"interval"` // the minimum step
	Format       string     `json:"format,omitempty"`
	Range        bool       `json:"range"`
	Instant      bool       `json:"instant"`
	Exemplar     bool       `json:"exemplar,omitempty"`
}

type fields struct {
	Defaults  fieldDefaults `json:"defaults"`
	Overrides []override    `json:"overrides"`
}

type fieldDefaults struct {
	Unit       string      `json:"unit"`
	Min        *float64    `json:"min,omitempty"`
	Max        *float64    `json:"max,omitempty"`
	Decimals   *int        `json:"decimals,omitempty"`
	NoValue    string      `json:"noValue,omitempty"`
	Color      object      `json:"color,omitempty"`
	Thresholds *thresholds `json:"thresholds,omitempty"`
	Mappings   []object    `json:"mappings,omitempty"`
	Custom     object      `json:"custom,omitempty"`
}

type thresholds struct {
	Mode  string `json:"mode"`
	Steps []step `json:"steps"`
}

type step struct {
	Value *float64 `json:"value"` // nil: minus infinity
	Color string   `json:"color"`
}

type override struct {
	Matcher    object   `json:"matcher"`
	Properties []object `json:"properties"`
}

// query returns a target that is evaluated over the whole time range.
func query(expr, legend string) target {
	return target{Datasource: prom, Expr: expr, LegendFormat: legend, Range: true, Interval: minStep}
}

// withExemplars shows the exemplars of a histogram as dots. A click on a dot opens
// its trace if the data source is linked to a trace store.
func (t target) withExemplars() target {
	t.Exemplar = true
	return t
}

func newPanel(kind, title, description, unit string, targets []target) *panel {
	for i := range targets {
		targets[i].RefID = string(rune('A' + i))
	}
	return &panel{
		Type:        kind,
		Title:       title,
		Description: description,
		GridPos:     gridPos{W: 12, H: 8},
		Datasource:  &prom,
		Targets:     targets,
		FieldConfig: &fields{Defaults: fieldDefaults{Unit: unit}, Overrides: []override{}},
	}
}

// stat is a panel with one number: the current value.
func stat(title, description, unit string, t target) *panel {
	t.Range, t.Instant = false, true
	p := newPanel("stat", title, description, unit, []target{t})
	p.GridPos.H = 4
	p.FieldConfig.Defaults.Color = object{"mode": "thresholds"}
	p.FieldConfig.Defaults.NoValue = "no traffic"
	p.Options = object{
		"colorMode":              "value",
		"graphMode":              "none",
		"justifyMode":            "center",
		"orientation":            "auto",
		"percentChangeColorMode": "standard",
		"showPercentChange":      false,
		"textMode":               "value",
		"wideLayout":             true,
		"reduceOptions":          object{"calcs": []string{"lastNotNull"}, "fields": "", "values": false},
	}
	return p.thresholds(above(0, "text"))
}

// softMax is the smallest maximum of an axis, by unit. Without it, Grafana would
// draw the axis of a flat line at zero up to 100.
var softMax = map[string]float64{"short": 1, "mps": .1, "cps": .1, "cpm": 1, "s": .01, "percentunit": .01, "bytes": 1024, "Bps": 1024}

// timeseries is a panel with a line for each series.
func timeseries(title, description, unit string, targets ...target) *panel {
	p := newPanel("timeseries", title, description, unit, targets)
	p.FieldConfig.Defaults.Color = object{"mode": "palette-classic"}
	p.FieldConfig.Defaults.Min = new(0.0)
	p.FieldConfig.Defaults.Custom = object{
		"drawStyle":         "line",
		"lineWidth":         1,
		"fillOpacity":       10,
		"showPoints":        "never",
		"spanNulls":         false,
		"stacking":          object{"mode": "none", "group": "A"},
		"lineInterpolation": "linear",
		"axisSoftMax":       softMax[unit],
	}
	p.Options = object{
		"legend":  object{"displayMode": "list", "placement": "bottom", "showLegend": true, "calcs": []string{}},
		"tooltip": object{"mode": "multi", "sort": "desc"},
	}
	return p
}

// heatmap is a panel that shows the buckets of a histogram over time.
func heatmap(title, description, unit string, t target) *panel {
	t.Format = "heatmap"
	p := newPanel("heatmap", title, description, unit, []target{t})
	p.Options = object{
		"calculate":    false,
		"cellGap":      1,
		"color":        object{"mode": "scheme", "scheme": "Blues", "fill": "dark-blue", "exponent": 0.5, "steps": 64, "reverse": false},
		"exemplars":    object{"color": "rgba(255,120,10,0.8)"},
		"filterValues": object{"le": 1e-9},
		"legend":       object{"show": true},
		"rowsFrame":    object{"layout": "auto"},
		"showValue":    "never",
		"tooltip":      object{"mode": "single", "yHistogram": false},
		"yAxis":        object{"axisPlacement": "left", "unit": unit, "reverse": false},
	}
	p.FieldConfig.Defaults.Custom = object{"scaleDistribution": object{"type": "linear"}}
	return p
}

// column is a column of a table, filled by a query.
type column struct {
	name   string
	unit   string
	expr   string
	levels []step // nil: no color
	whole  bool   // shown without decimals, which increase() produces by extrapolating
	bar    bool   // shown as a bar behind the number
}

// key is a label whose values are the rows of a table.
type key struct {
	label string
	title string // of the link
	url   string // of the dashboard that a click opens; empty: none
}

// toConsumer opens the consumer dashboard of a row's topic and queue.
const toConsumer = "/d/" + uidConsumer + "?" + selection +
	"&var-topic=${__data.fields.topic:percentencode}&var-queue=${__data.fields.queue:percentencode}&${__url_time_range}"

// selection passes on what is selected above the topic.
const selection = "${datasource:queryparam}&${job:queryparam}&${instance:queryparam}&${scrape:queryparam}&${filters:queryparam}"

// byTopicAndQueue are the keys of most tables.
var byTopicAndQueue = []key{{label: "topic", title: "Open the consumer dashboard", url: toConsumer}, {label: "queue"}}

// table is a panel with a row for each value of the keys.
func table(title, description string, keys []key, columns ...column) *panel {
	names, order := object{}, object{}
	var overrides []override
	byQueue := false
	for i, k := range keys {
		names[k.label], order[k.label] = k.label, i
		byQueue = byQueue || k.label == "queue"
		if k.url != "" {
			overrides = append(overrides, override{
				Matcher:    object{"id": "byName", "options": k.label},
				Properties: []object{{"id": "links", "value": []object{{"title": k.title, "url": k.url}}}},
			})
		}
	}
	var targets []target
	for i, c := range columns {
		if byQueue {
			c.expr = showNoQueue(c.expr)
		}
		t := query(c.expr, c.name)
		t.Range, t.Instant, t.Format = false, true, "table"
		targets = append(targets, t)
		field := fmt.Sprintf("Value #%c", 'A'+i)
		names[field] = c.name
		order[field] = len(keys) + i
		overrides = append(overrides, override{Matcher: object{"id": "byName", "options": c.name}, Properties: c.properties()})
	}
	p := newPanel("table", title, description, "short", targets)
	p.GridPos = gridPos{W: gridWidth, H: 9}
	p.FieldConfig.Defaults.NoValue = "-"
	p.FieldConfig.Defaults.Custom = object{"align": "auto", "filterable": true, "inspect": false, "minWidth": 80}
	p.FieldConfig.Overrides = overrides
	p.Options = object{"showHeader": true, "cellHeight": "sm", "frameIndex": 0}
	p.Transformations = []object{
		{"id": "merge", "options": object{}},
		{"id": "organize", "options": object{"excludeByName": object{"Time": true, "pattern": true}, "indexByName": order, "renameByName": names}},
	}
	return p
}

// properties are what the cells of the column look like.
func (c column) properties() []object {
	properties := []object{{"id": "unit", "value": c.unit}}
	if c.whole {
		properties = append(properties, object{"id": "decimals", "value": 0})
	}
	if c.levels != nil {
		properties = append(properties, object{"id": "thresholds", "value": thresholds{Mode: "absolute", Steps: c.levels}})
	}
	if c.bar && c.levels == nil { // Grafana's own levels would be green, and red from 80 on
		properties = append(properties, object{"id": "color", "value": object{"mode": "fixed", "fixedColor": "blue"}})
	}
	switch {
	case c.bar:
		properties = append(properties,
			object{"id": "min", "value": 0},
			object{"id": "custom.cellOptions", "value": object{"type": "gauge", "mode": "basic", "valueDisplayMode": "text"}})
	case c.levels != nil:
		properties = append(properties, object{"id": "custom.cellOptions", "value": object{"type": "color-text"}})
	}
	return properties
}

// size sets the width and height of a panel, in grid units. A row is gridWidth
// units wide.
func (p *panel) size(w, h int) *panel {
	p.GridPos.W, p.GridPos.H = w, h
	if p.Type == "timeseries" && w == gridWidth { // there is room for the legend on the right
		p.Options["legend"] = object{"displayMode": "table", "placement": "right", "showLegend": true, "calcs": []string{"lastNotNull", "max"}}
	}
	return p
}

// above is a threshold: values from here upwards have this color.
func above(value float64, color string) step {
	return step{Value: &value, Color: color}
}

// levels is a list of thresholds in ascending order. The first one also applies to
// all values below it.
func levels(steps ...step) []step {
	steps[0].Value = nil
	return steps
}

// thresholds colors the values of a panel by level.
func (p *panel) thresholds(steps ...step) *panel {
	p.FieldConfig.Defaults.Thresholds = &thresholds{Mode: "absolute", Steps: levels(steps...)}
	return p
}

// limit draws a dashed line at a value that should not be exceeded.
func (p *panel) limit(value float64, color string) *panel {
	p.FieldConfig.Defaults.Custom["thresholdsStyle"] = object{"mode": "dashed"}
	return p.thresholds(above(0, "transparent"), above(value, color))
}

// max sets the upper end of the axis.
func (p *panel) max(v float64) *panel {
	p.FieldConfig.Defaults.Max = &v
	return p
}

// noData sets the text shown when a query returns no series. Grafana's own "No
// data" looks like a fault, which it need not be.
func (p *panel) noData(text string) *panel {
	p.FieldConfig.Defaults.NoValue = text
	return p
}

// freeMin lets Grafana choose the lower end of the axis, which is zero otherwise.
func (p *panel) freeMin() *panel {
	p.FieldConfig.Defaults.Min = nil
	return p
}

// stacked draws the series on top of each other, as filled areas.
func (p *panel) stacked() *panel {
	custom := p.FieldConfig.Defaults.Custom
	custom["stacking"] = object{"mode": "normal", "group": "A"}
	custom["fillOpacity"] = 60
	return p
}

// stepped draws the lines as steps, for values that change from one moment to the
// next.
func (p *panel) stepped() *panel {
	p.FieldConfig.Defaults.Custom["lineInterpolation"] = "stepAfter"
	return p
}

// seriesColor gives the series with this legend a fixed color, and more properties
// if there are any.
func (p *panel) seriesColor(legend, color string, more ...object) *panel {
	p.FieldConfig.Overrides = append(p.FieldConfig.Overrides, override{
		Matcher: object{"id": "byName", "options": legend},
		Properties: append([]object{
			{"id": "color", "value": object{"mode": "fixed", "fixedColor": color}},
		}, more...),
	})
	return p
}

// words shows a colored word in place of each value.
func (p *panel) words(texts, colors map[string]string) *panel {
	options := object{}
	for value, text := range texts {
		options[value] = object{"text": text, "color": colors[value]}
	}
	p.FieldConfig.Defaults.Mappings = []object{{"type": "value", "options": options}}
	return p
}

// limitLine draws the series whose legend matches the pattern as a limit: a dashed
// line, on which the others are not stacked.
func (p *panel) limitLine(pattern string) *panel {
	p.FieldConfig.Overrides = append(p.FieldConfig.Overrides, override{
		Matcher: object{"id": "byRegexp", "options": "/" + pattern + "/"},
		Properties: []object{
			{"id": "color", "value": object{"mode": "fixed", "fixedColor": "red"}},
			{"id": "custom.lineStyle", "value": object{"fill": "dash", "dash": []int{10, 10}}},
			{"id": "custom.fillOpacity", "value": 0},
			{"id": "custom.stacking", "value": object{"mode": "none", "group": "A"}},
		},
	})
	return p
}

// row is a heading with the panels below it, from left to right.
type row struct {
	title  string
	panels []*panel
	hidden bool // until somebody opens it
}

func section(title string, panels ...*panel) row { return row{title: title, panels: panels} }

// collapsed hides the panels of a row until somebody opens it. It is for what is
// nearly always zero. Alerts link to its panels.
func collapsed(title string, panels ...*panel) row {
	return row{title: title, panels: panels, hidden: true}
}

// gridWidth is the width of a Grafana dashboard, in grid units.
const gridWidth = 24

// layOut places the panels on the grid.
func layOut(rows ...row) []*panel {
	var out []*panel
	y := 0
	for _, r := range rows {
		heading := &panel{Type: "row", Title: r.title, GridPos: gridPos{W: gridWidth, H: 1, Y: y}, Collapsed: new(r.hidden), Panels: &[]*panel{}}
		heading.ID = panelID(heading.Type, heading.Title)
		out = append(out, heading)
		x, below, height := 0, y+1, 0
		for _, p := range r.panels {
			if x+p.GridPos.W > gridWidth {
				x, below, height = 0, below+height, 0
			}
			p.ID = panelID(p.Type, p.Title)
			p.GridPos.X, p.GridPos.Y = x, below
			x, height = x+p.GridPos.W, max(height, p.GridPos.H)
			if r.hidden {
				*heading.Panels = append(*heading.Panels, p)
			} else {
				out = append(out, p)
			}
		}
		y++
		if !r.hidden {
			y = below + height
		}
	}
	return out
}

// panelID is the number of a panel in links. It comes from the title, so that links
// outlive a new layout.
func panelID(kind, title string) int {
	h := fnv.New32a()
	_, _ = io.WriteString(h, kind+" "+title)
	return 1 + int(h.Sum32()%99_999)
}

// decimals sets how many decimals are shown.
func (p *panel) decimals(n int) *panel {
	p.FieldConfig.Defaults.Decimals = &n
	return p
}

// rightAxis moves the series whose legend matches the pattern to an axis on the
// right, with a unit of its own.
func (p *panel) rightAxis(pattern, unit string) *panel {
	p.FieldConfig.Overrides = append(p.FieldConfig.Overrides, override{
		Matcher:    object{"id": "byRegexp", "options": "/" + pattern + "/"},
		Properties: []object{{"id": "unit", "value": unit}, {"id": "custom.axisPlacement", "value": "right"}},
	})
	return p
}
