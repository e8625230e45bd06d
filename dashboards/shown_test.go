package dashboards_test

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// signs are what an operator takes for trouble on each panel that alerts link to. A, B
// and C are its queries. A panel without a sign shows the end of a process.
var signs = map[string]string{
	"Backoff":                         "A > 0",
	"Burn rate of the success budget": "A > 1",
	"Connected":                       "A < 1",
	"Dead letters and exhausted":      "A > 0 or B > 0 or C > 0",
	"Dead letters in streams":         "A > 0",
	"Delivery lag":                    "B > 60",
	"Errors by reason":                "A > 0",
	"Failed deliveries by replica":    "A > 0.5",
	"Failures":                        "A > 0 or B > 0 or C > 0 or D > 0",
	"Fetch errors":                    "A > 0",
	"Handler duration":                "B > 3 * last_over_time(B[1m:1m] offset 25m)",
	"Handling rate by replica":        "",
	"In flight":                       "A > 0",
	"Messages in streams":             "A > 0.5 * B",
	"Pause ends in":                   "A",
	"Pending":                         "A > 0",
	"Pending of consumers":            "A > 0",
	"Process starts":                  "A > 2",
	"Reconnects":                      "A > 0",
	"Redeliveries":                    "A > 0 or B > 0",
	"Server answers by replica":       "A < 1",
	"Share of redeliveries":           "A > 0.1",
	"Subscribe errors":                "A > 0",
	"Unsettled":                       "A >= on (topic, queue) C",
}

// linkedPanels are the panels that alerts link to, by title.
func linkedPanels(t *testing.T) map[string]panel {
	t.Helper()
	linked := map[string]panel{}
	all := readDashboards(t)
	for _, r := range readRules(t) {
		for _, d := range all {
			for _, p := range d.Panels {
				if strings.Contains(r.Annotations["dashboard"], "/d/"+d.UID+"?viewPanel="+strconv.Itoa(p.ID)+"&") {
					linked[p.Title] = p
				}
			}
		}
	}
	return linked
}

// panels are those that show an incident, and those that may.
type panels struct{ must, may []string }

var (
	ofFailures = []string{"Burn rate of the success budget", "Failed deliveries by replica", "Failures", "Redeliveries", "Share of redeliveries"}
	ofOutages  = []string{"Backoff", "Connected", "Fetch errors", "Reconnects", "Redeliveries", "Server answers by replica", "Share of redeliveries"}
	// Where messages are handled, some wait or are being handled.
	ofWork = []string{"In flight", "Pending", "Pending of consumers"}
)

// incidentPanels are the panels of each incident of TestIncidents. No other one that an
// alert links to shows trouble.
var incidentPanels = map[string]panels{
	"a healthy service whose server restarts":              {[]string{"Reconnects"}, ofOutages},
	"retries fill MaxAckPending":                           {[]string{"Failures", "Unsettled"}, ofFailures},
	"all handlers hang":                                    {[]string{"In flight"}, nil},
	"a consumer is paused":                                 {[]string{"Pause ends in", "Pending of consumers"}, nil},
	"the last subscriber has ended":                        {[]string{"Pending of consumers"}, nil},
	"a stream is at 80 percent":                            {[]string{"Messages in streams"}, nil},
	"dead letters, at once":                                {[]string{"Dead letters and exhausted", "Dead letters in streams", "Failures"}, ofFailures},
	"dead letters, after an hour":                          {[]string{"Dead letters in streams"}, append([]string{"Dead letters and exhausted"}, ofFailures...)},
	"one of several handlers hangs":                        {[]string{"In flight"}, nil},
	"one replica of three fails everything":                {[]string{"Failed deliveries by replica", "Failures"}, ofFailures},
	"a topic cannot be published":                          {[]string{"Errors by reason"}, nil},
	"a message fails for ever":                             {[]string{"Failures", "Redeliveries"}, ofFailures},
	"a message panics":                                     {[]string{"Failures"}, ofFailures},
	"the connection flaps":                                 {[]string{"Reconnects"}, ofOutages},
	"the consumer is deleted again and again":              {[]string{"Fetch errors"}, []string{"Backoff"}},
	"Subscribe fails":                                      {[]string{"Subscribe errors"}, nil},
	"a healthy service whose processes are replaced":       {[]string{"Reconnects"}, ofOutages},
	"a healthy run of the demo, restarted with its server": {[]string{"Reconnects"}, append(slices.Clip(ofOutages), ofFailures...)},
	"the process crashes again and again":                  {[]string{"Process starts"}, ofOutages},
	"handlers are slow, and keep up":                       {[]string{"Handler duration"}, nil},
	"handlers are slow, and fall behind":                   {[]string{"Handler duration", "Pending"}, nil},
	"a backlog grows":                                      {[]string{"Handler duration", "Pending"}, nil},
	"one of two environments fails everything":             {[]string{"Burn rate of the success budget", "Failures"}, ofFailures},
	"the connection is dead and does not say so":           {[]string{"Connected"}, append([]string{"Errors by reason"}, ofOutages...)},
	"a stream fills":                                       {[]string{"Messages in streams"}, nil},
}

// wronglyShown is a query whose result is empty if these panels showed their sign at
// some minute of the incident, and no others did.
func wronglyShown(t *testing.T, expected panels, minutes int) string {
	t.Helper()
	values := map[string]string{"__rate_interval": "4m", "objective": "0.99"}
	for _, d := range readDashboards(t) {
		maps.Copy(values, d.all())
	}
	var all []string
	linked := linkedPanels(t)
	for _, title := range slices.Sorted(maps.Keys(linked)) {
		sign, ok := signs[title]
		if !ok {
			t.Errorf("no sign for the panel %s", title)
		}
		must := slices.Contains(expected.must, title)
		if sign == "" || !must && slices.Contains(slices.Concat(expected.may, ofWork), title) {
			continue
		}
		sign = regexp.MustCompile(`\b[A-D]\b`).ReplaceAllStringFunc(sign, func(ref string) string {
			return "(" + fill(linked[title].Targets[ref[0]-'A'].Expr, values) + ")"
		})
		shown := fmt.Sprintf("count_over_time((%s)[%dm:1m])", sign, minutes)
		if must {
			all = append(all, fmt.Sprintf(`label_replace(absent(%s), "missing", %q, "", "")`, shown, title))
		} else {
			all = append(all, fmt.Sprintf(`label_replace(group(%s), "shown", %q, "", "")`, shown, title))
		}
	}
	return strings.Join(all, " or ")
}
