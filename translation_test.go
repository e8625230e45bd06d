package module_test

import (
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// translations are the pages that exist in Traditional Chinese, by their English ones.
// Links of a page in either language lead to the page of that language.
var translations = map[string]string{
	"README.md":               "README.zh-TW.md",
	"docs/getting-started.md": "docs/zh-TW/getting-started.md",
	"docs/how-to.md":          "docs/zh-TW/how-to.md",
}

// line is a line of a page.
type line struct {
	number int
	text   string
	facts  string // what of it is the same in every language
	leads  []lead // where it links to
}

// lead is the target of a link: a page, by its English name, and a heading.
type lead struct {
	page    string
	heading string // of a page that is not translated
	section int    // of one that is, by its number; 0 if the link is to the page
}

// section is a heading and the lines below it, until the next heading.
type section struct {
	level int
	lines []line
}

var (
	kind = regexp.MustCompile(`^(?:#+ |\||- |\d+\. |!\[|\*\*)`)
	// Code, targets of links, names of tests, numbers.
	fact = regexp.MustCompile("`[^`]+`" + `|\]\([^)\s]+\)|\b(?:Test|Fuzz|Benchmark)[A-Z]\w*|\d+(?:[.,]\d+)*`)
)

// english returns the English name of a page or file.
func english(file string) string {
	for ours, theirs := range translations {
		if file == theirs {
			return ours
		}
	}
	return file
}

// leadOf reads the target of a link on a page.
func leadOf(t *testing.T, file, target string) lead {
	t.Helper()
	if strings.Contains(target, "://") {
		return lead{page: target}
	}
	name, anchor, _ := strings.Cut(target, "#")
	to := file
	if name != "" {
		to = path.Join(path.Dir(file), name)
	}
	if file != english(file) && translations[to] != "" && translations[to] != file {
		t.Errorf("%s links to %s, which is in Chinese, too", file, to)
	}
	l := lead{page: english(to), heading: anchor}
	if translations[l.page] != "" && anchor != "" {
		l.heading, l.section = "", slices.Index(headings(t, to), anchor)+1
	}
	return l
}

// headings returns the anchors of a page in their order.
func headings(t *testing.T, file string) []string {
	t.Helper()
	var all []string
	inCode := false
	for text := range strings.SplitSeq(read(t, file), "\n") {
		if strings.HasPrefix(text, "```") {
			inCode = !inCode
		} else if heading, ok := headingOf(text); ok && !inCode {
			all = append(all, anchor(heading))
		}
	}
	return all
}

// headingOf returns the text of a heading.
func headingOf(text string) (string, bool) {
	marks, heading, ok := strings.Cut(text, " ")
	return heading, ok && marks != "" && strings.Trim(marks, "#") == ""
}

// prose reads a line that is not code. Its facts are what kind of line it is, and
// those of each cell of a table row, or else of the whole line. They are sorted, for
// the order is the grammar's.
func prose(t *testing.T, file string, number int, text string) line {
	t.Helper()
	l := line{number: number, text: text, facts: kind.FindString(text)}
	cells := []string{text}
	if l.facts == "|" {
		cells = strings.Split(text, "|")
	}
	for _, cell := range cells {
		facts := fact.FindAllString(cell, -1)
		for i, f := range facts {
			if target, ok := strings.CutPrefix(f, "]("); ok {
				l.leads = append(l.leads, leadOf(t, file, strings.TrimSuffix(target, ")")))
				facts[i] = "](a link)"
			}
		}
		slices.Sort(facts)
		l.facts += strings.Join(facts, " ") + "|"
	}
	slices.SortFunc(l.leads, func(a, b lead) int {
		return strings.Compare(a.page+"#"+a.heading, b.page+"#"+b.heading)*1000 + a.section - b.section
	})
	return l
}

// sections reads a page. In its code everything is a fact, comments included.
func sections(t *testing.T, file string) []section {
	t.Helper()
	var all []section
	inCode := false
	for i, text := range strings.Split(read(t, file), "\n") {
		l := line{number: i + 1, text: text, facts: text}
		if strings.HasPrefix(text, "```") {
			inCode = !inCode
		} else if !inCode {
			l = prose(t, file, i+1, text)
			if _, ok := headingOf(text); ok {
				all = append(all, section{level: strings.Index(text, " ")})
			}
		}
		if len(all) == 0 {
			t.Fatalf("%s does not begin with a heading", file)
		}
		last := &all[len(all)-1]
		last.lines = append(last.lines, l)
	}
	return all
}

// lastDifference returns the indexes of the last elements that are not the
// same, each -1 if its list has none left. What one list lacks is then at the
// index of the other: what follows it is the same.
func lastDifference[E any](a, b []E, same func(E, E) bool) (int, int) {
	i, j := len(a)-1, len(b)-1
	for i >= 0 && j >= 0 && same(a[i], b[j]) {
		i, j = i-1, j-1
	}
	return i, j
}

// Both languages have, line by line, the same headings, paragraphs, entries,
// rows, links, numbers and code.
func TestTheTranslation(t *testing.T) {
	for english, chinese := range translations {
		t.Run(english, func(t *testing.T) { compare(t, english, chinese) })
	}
}

func compare(t *testing.T, english, chinese string) {
	ours, theirs := sections(t, english), sections(t, chinese)

	sameFacts := func(a, b line) bool { return a.facts == b.facts }
	sameLine := func(a, b line) bool { return sameFacts(a, b) && slices.Equal(a.leads, b.leads) }
	sameLevel := func(a, b section) bool { return a.level == b.level }
	sameSection := func(a, b section) bool { return a.level == b.level && slices.EqualFunc(a.lines, b.lines, sameFacts) }

	if !slices.EqualFunc(ours, theirs, sameLevel) {
		heading := func(all []section, i int) line {
			if i < 0 {
				return line{text: "none"}
			}
			return all[i].lines[0]
		}
		i, j := lastDifference(ours, theirs, sameSection)
		a, b := heading(ours, i), heading(theirs, j)
		t.Fatalf("%d sections and %d; the last that differ:\n%s:%d: %s\n%s:%d: %s",
			len(ours), len(theirs), english, a.number, a.text, chinese, b.number, b.text)
	}
	for n := range ours {
		i, j := lastDifference(ours[n].lines, theirs[n].lines, sameLine)
		if i < 0 && j < 0 {
			continue
		}
		a, b := ours[n].lines[max(i, 0)], theirs[n].lines[max(j, 0)]
		t.Errorf("%s: %d lines and %d; the last that differ:\n%s:%d: %s\n%s:%d: %s",
			ours[n].lines[0].text, len(ours[n].lines), len(theirs[n].lines), english, a.number, a.text, chinese, b.number, b.text)
	}
}
