package module_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

// line is a line of a README.
type line struct {
	number  int
	text    string
	facts   string   // what of it is the same in every language
	anchors []string // the headings that it links to
	leads   []int    // the same, by number of the section
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

// prose reads a line that is not code. Its facts are what kind of line it is,
// and those of each cell of a table row, or else of the whole line. They are
// sorted, for the order is the grammar's.
func prose(number int, text, other string) line {
	l := line{number: number, text: text, facts: kind.FindString(text)}
	cells := []string{text}
	if l.facts == "|" {
		cells = strings.Split(text, "|")
	}
	for _, cell := range cells {
		facts := fact.FindAllString(cell, -1)
		for i, f := range facts {
			if target, ok := strings.CutPrefix(f, "](#"); ok {
				l.anchors = append(l.anchors, strings.TrimSuffix(target, ")"))
				facts[i] = "](an anchor)"
			} else if f == "]("+other+")" {
				facts[i] = "](the other language)"
			}
		}
		slices.Sort(facts)
		l.facts += strings.Join(facts, " ") + "|"
	}
	return l
}

// sections reads a README. In its code everything is a fact, comments included.
// The other is the same in another language.
func sections(t *testing.T, file, other string) []section {
	t.Helper()
	var all []section
	numbers := map[string]int{} // of sections, by anchor
	inCode := false
	for i, text := range strings.Split(read(t, file), "\n") {
		l := line{number: i + 1, text: text, facts: text}
		if strings.HasPrefix(text, "```") {
			inCode = !inCode
		} else if !inCode {
			l = prose(i+1, text, other)
			if marks, heading, ok := strings.Cut(text, " "); ok && strings.Trim(marks, "#") == "" {
				numbers[anchor(heading)] = len(all)
				all = append(all, section{level: len(marks)})
			}
		}
		if len(all) == 0 {
			t.Fatalf("%s does not begin with a heading", file)
		}
		last := &all[len(all)-1]
		last.lines = append(last.lines, l)
	}
	for _, s := range all {
		for i, l := range s.lines {
			for _, a := range l.anchors {
				number, ok := numbers[a]
				if !ok {
					t.Errorf("%s:%d: there is no heading for #%s", file, l.number, a)
				}
				s.lines[i].leads = append(s.lines[i].leads, number)
			}
			slices.Sort(s.lines[i].leads)
		}
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
	const english, chinese = "README.md", "README.zh-TW.md"
	ours, theirs := sections(t, english, chinese), sections(t, chinese, english)

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
