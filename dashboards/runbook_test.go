package dashboards_test

import (
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// section returns the text below a headline of README.md.
func section(t *testing.T, title string) string {
	t.Helper()
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text2, found := strings.Cut(string(text), "\n### "+title+"\n")
	if !found {
		t.Fatalf("README.md has no section %s", title)
	}
	text2, _, _ = strings.Cut(text2, "\n### ")
	return text2
}

var (
	confirmLine = regexp.MustCompile(`(?m)^\*\*Confirm\.\*\* Panel \*([^*]+)\*.+$`)
	ignoreLine  = regexp.MustCompile(`(?m)^\*\*Ignore it\*\* .+\.$`)
	natsCommand = regexp.MustCompile("`(nats [a-z][^`]*)`")
)

// Each alert has a section that says what it means, how to confirm it on the panel that
// it links to, on the live page and on the server, what to do, and when to ignore it.
func TestRunbook(t *testing.T) {
	panels := map[string]string{} // titles by "uid id"
	for _, d := range readDashboards(t) {
		for _, p := range d.Panels {
			panels[d.UID+" "+strconv.Itoa(p.ID)] = p.Title
		}
	}
	for _, r := range readRules(t) {
		if r.Alert == "" {
			continue
		}
		text := section(t, r.Alert)
		meaning, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
		if len(meaning) < 40 || strings.HasPrefix(meaning, "**") || strings.HasPrefix(meaning, "1.") {
			t.Errorf("%s does not begin with what it means: %q", r.Alert, meaning)
		}
		confirm := confirmLine.FindStringSubmatch(text)
		if confirm == nil {
			t.Errorf("%s does not say how to confirm it", r.Alert)
			continue
		}
		path, query, _ := strings.Cut(strings.TrimPrefix(r.Annotations["dashboard"], grafanaBase+"/d/"), "?")
		if m := linkPanel.FindStringSubmatch(query); m != nil && panels[path+" "+m[1]] != confirm[1] {
			t.Errorf("%s is confirmed on the panel %q, and links to %q", r.Alert, confirm[1], panels[path+" "+m[1]])
		}
		if !strings.Contains(confirm[0], "Live page") || !natsCommand.MatchString(confirm[0]) {
			t.Errorf("%s is not confirmed on the live page, or on the server: %s", r.Alert, confirm[0])
		}
		if !ignoreLine.MatchString(text) {
			t.Errorf("%s does not say when to ignore it", r.Alert)
		}
	}
}

// natsCommands are those of the command-line tool, version 0.5.1, that README.md names,
// with the number of arguments and the options that it uses.
var natsCommands = map[string]struct {
	arguments int
	options   []string
}{
	"rtt":                        {},
	"account info":               {},
	"account report connections": {},
	"events":                     {options: []string{"--js-advisory"}},
	"server report jetstream":    {},
	"server report connections":  {},
	"stream report":              {},
	"stream info":                {arguments: 1},
	"stream view":                {arguments: 1},
	"stream get":                 {arguments: 2},
	"stream rmm":                 {arguments: 2},
	"stream edit":                {arguments: 1, options: []string{"--max-bytes"}},
	"consumer report":            {arguments: 1},
	"consumer info":              {arguments: 2},
	"consumer resume":            {arguments: 2},
	"consumer rm":                {arguments: 2},
	"consumer edit":              {arguments: 2, options: []string{"--max-pending"}},
}

// The commands can be copied as they are: no placeholder, no argument that is missing.
func TestNatsCommands(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	examples := []string{"ORDERS", "DEAD", "billing", "4711"}
	tool, _ := exec.LookPath("nats")
	for _, m := range natsCommand.FindAllStringSubmatch(string(text), -1) {
		words := strings.Fields(m[1])[1:]
		n := len(words)
		for n > 0 && natsCommands[strings.Join(words[:n], " ")].options == nil && natsCommands[strings.Join(words[:n], " ")].arguments == 0 {
			if _, ok := natsCommands[strings.Join(words[:n], " ")]; ok {
				break
			}
			n--
		}
		known, ok := natsCommands[strings.Join(words[:n], " ")]
		if !ok {
			t.Errorf("%s: there is no such command", m[1])
			continue
		}
		arguments := 0
		for i, w := range words[n:] {
			switch {
			case strings.HasPrefix(w, "-"):
				if !slices.Contains(known.options, w) {
					t.Errorf("%s has no option %s", m[1], w)
				}
			case i > 0 && strings.HasPrefix(words[n+i-1], "-"): // the value of an option
			default:
				arguments++
				if !slices.Contains(examples, w) {
					t.Errorf("%s: %q is not one of the names that README.md explains", m[1], w)
				}
			}
		}
		if arguments != known.arguments {
			t.Errorf("%s has %d arguments, want %d", m[1], arguments, known.arguments)
		}
		if tool != "" {
			if out, err := exec.Command(tool, append(words[:n:n], "--help")...).CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s", m[1], err, out)
			}
		}
	}
}
