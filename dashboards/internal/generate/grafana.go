package main

import "fmt"

// This file is as much of Grafana's dashboard model as the dashboards use. The
// types are written by hand: they are few, and a library for them would be a
// dependency of every service that links this module.

// object is JSON that is not worth a type. Keys come out sorted.
type object = map[string]any

type dashboard struct {
	UID           string     `json:"uid"`
	Title         string     `json:"title"`
	Description   string     `json:"description"`
	Tags          []string   `json:"tags"`
	Editable      bool       `json:"editable"`
	GraphTooltip  int        `json:"graphTooltip"` // 1: the crosshair is in all panels
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
	Refresh     int            `json:"refresh,omitempty"` // 2: when the time range changes
	Sort        int            `json:"sort,omitempty"`    // 1: by name
	Multi       bool           `json:"multi"`
	IncludeAll  bool           `json:"includeAll"`
	AllValue    string         `json:"allValue,omitempty"`
	Hide        int            `json:"hide"` // 2: not shown, but links carry it on
	Current     *current       `json:"current,omitempty"`
	Options     []customOption `json:"options"`
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

// prom is the data source that the user has chosen.
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
	Collapsed       *bool       `json:"collapsed,omitempty"` // rows only
	Panels          *[]*panel   `json:"panels,omitempty"`    // of a collapsed row
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
	Value *float64 `json:"value"` // nil: from the bottom
	Color string   `json:"color"`
}

type override struct {
	Matcher    object   `json:"matcher"`
	Properties []object `json:"properties"`
}

// query makes a target of a time series.
func query(expr, legend string) target {
	return target{Datasource: prom, Expr: expr, LegendFormat: legend, Range: true}
}

// withExemplars shows the exemplars behind a histogram as dots: a click opens
// the trace, if the data source says where.
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

// stat is one number, its present value.
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
	return p.thresholds(at(0, "text"))
}

// softMax is the least that an axis shows, by unit: or the axis of a line at zero
// would go up to 100.
var softMax = map[string]float64{"short": 1, "mps": .1, "cps": .1, "cpm": 1, "s": .01, "percentunit": .01}

// timeseries is a chart of lines.
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

// heatmap shows the buckets of a histogram.
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

// column is a query that fills a column of a table.
type column struct {
	name  string
	unit  string
	expr  string
	steps []step
	whole bool // no decimals: increase() extrapolates
}

// table has a line for each topic and queue; a click on the topic opens the
// consumer dashboard.
func table(title, description string, columns ...column) *panel {
	var targets []target
	names := object{"topic": "topic", "queue": "queue"}
	order := object{"topic": 0, "queue": 1}
	var overrides []override
	for i, c := range columns {
		t := query(c.expr, c.name)
		t.Range, t.Instant, t.Format = false, true, "table"
		targets = append(targets, t)
		field := fmt.Sprintf("Value #%c", 'A'+i)
		names[field] = c.name
		order[field] = i + 2
		properties := []object{{"id": "unit", "value": c.unit}}
		if c.whole {
			properties = append(properties, object{"id": "decimals", "value": 0})
		}
		if c.steps != nil {
			properties = append(properties,
				object{"id": "thresholds", "value": thresholds{Mode: "absolute", Steps: c.steps}},
				object{"id": "custom.cellOptions", "value": object{"type": "color-text"}})
		}
		overrides = append(overrides, override{Matcher: object{"id": "byName", "options": c.name}, Properties: properties})
	}
	overrides = append(overrides, override{
		Matcher: object{"id": "byName", "options": "topic"},
		Properties: []object{{"id": "links", "value": []object{{
			"title": "Open the consumer dashboard",
			"url": "/d/" + uidConsumer + "?${datasource:queryparam}&${job:queryparam}&${instance:queryparam}" +
				"&var-topic=${__data.fields.topic:percentencode}&var-queue=${__data.fields.queue:percentencode}&${__url_time_range}",
		}}}},
	})
	p := newPanel("table", title, description, "short", targets)
	p.GridPos = gridPos{W: 24, H: 9}
	p.FieldConfig.Defaults.NoValue = "-"
	p.FieldConfig.Defaults.Custom = object{"align": "auto", "filterable": true, "inspect": false}
	p.FieldConfig.Overrides = overrides
	p.Options = object{"showHeader": true, "cellHeight": "sm", "frameIndex": 0}
	p.Transformations = []object{
		{"id": "merge", "options": object{}},
		{"id": "organize", "options": object{"excludeByName": object{"Time": true}, "indexByName": order, "renameByName": names}},
	}
	return p
}

func (p *panel) size(w, h int) *panel {
	p.GridPos.W, p.GridPos.H = w, h
	if p.Type == "timeseries" && w == 24 { // there is room beside the chart
		p.Options["legend"] = object{"displayMode": "table", "placement": "right", "showLegend": true, "calcs": []string{"lastNotNull", "max"}}
	}
	return p
}

func at(value float64, color string) step {
	return step{Value: &value, Color: color}
}

func levels(steps ...step) []step {
	steps[0].Value = nil // the lowest counts from the bottom
	return steps
}

func (p *panel) thresholds(steps ...step) *panel {
	return p.colors(levels(steps...))
}

// limit draws a line at an objective.
func (p *panel) limit(value float64, color string) *panel {
	p.FieldConfig.Defaults.Custom["thresholdsStyle"] = object{"mode": "dashed"}
	return p.thresholds(at(0, "transparent"), at(value, color))
}

func (p *panel) max(v float64) *panel {
	p.FieldConfig.Defaults.Max = &v
	return p
}

// orElse is shown where there is no series: not every lack of data is a fault.
func (p *panel) orElse(text string) *panel {
	p.FieldConfig.Defaults.NoValue = text
	return p
}

// anySign also shows what is below zero.
func (p *panel) anySign() *panel {
	p.FieldConfig.Defaults.Min = nil
	return p
}

func (p *panel) stacked() *panel {
	custom := p.FieldConfig.Defaults.Custom
	custom["stacking"] = object{"mode": "normal", "group": "A"}
	custom["fillOpacity"] = 60
	return p
}

// steps draws what changes by steps as it does.
func (p *panel) steps() *panel {
	p.FieldConfig.Defaults.Custom["lineInterpolation"] = "stepAfter"
	return p
}

// colored gives a series, by its legend, a color that means the same everywhere.
func (p *panel) colored(legend, color string, more ...object) *panel {
	p.FieldConfig.Overrides = append(p.FieldConfig.Overrides, override{
		Matcher: object{"id": "byName", "options": legend},
		Properties: append([]object{
			{"id": "color", "value": object{"mode": "fixed", "fixedColor": color}},
		}, more...),
	})
	return p
}

// mapped shows words for values.
func (p *panel) mapped(words map[string]string, colors map[string]string) *panel {
	options := object{}
	for value, text := range words {
		options[value] = object{"text": text, "color": colors[value]}
	}
	p.FieldConfig.Defaults.Mappings = []object{{"type": "value", "options": options}}
	return p
}

// row is a headline with the panels below it, left to right.
type row struct {
	title  string
	panels []*panel
}

func section(title string, panels ...*panel) row { return row{title, panels} }

// layOut numbers the panels and gives each its place.
func layOut(rows ...row) []*panel {
	const width = 24
	var out []*panel
	id, y := 1, 0
	for _, r := range rows {
		out = append(out, &panel{ID: id, Type: "row", Title: r.title, GridPos: gridPos{W: width, H: 1, Y: y}, Collapsed: new(false), Panels: &[]*panel{}})
		id, y = id+1, y+1
		x, height := 0, 0
		for _, p := range r.panels {
			if x+p.GridPos.W > width {
				x, y, height = 0, y+height, 0
			}
			p.ID, p.GridPos.X, p.GridPos.Y = id, x, y
			id, x, height = id+1, x+p.GridPos.W, max(height, p.GridPos.H)
			out = append(out, p)
		}
		y += height
	}
	return out
}

func (p *panel) colors(steps []step) *panel {
	p.FieldConfig.Defaults.Thresholds = &thresholds{Mode: "absolute", Steps: steps}
	return p
}

func (p *panel) decimals(n int) *panel {
	p.FieldConfig.Defaults.Decimals = &n
	return p
}

// unitOf gives the series whose legend matches a unit of their own, and the
// right axis.
func (p *panel) unitOf(pattern, unit string) *panel {
	p.FieldConfig.Overrides = append(p.FieldConfig.Overrides, override{
		Matcher:    object{"id": "byRegexp", "options": "/" + pattern + "/"},
		Properties: []object{{"id": "unit", "value": unit}, {"id": "custom.axisPlacement", "value": "right"}},
	})
	return p
}
