package natstest

import (
	"fmt"
	"io"
	"log/slog"
	"maps"
	"strings"
	"sync"

	"go-micro.dev/v5/logger"
)

// Quiet is a logger that writes nothing.
func Quiet() logger.Logger {
	return logger.NewLogger(logger.WithOutput(io.Discard), logger.WithLevel(logger.Level(slog.LevelError)))
}

// Log is a go-micro logger that keeps its lines, of all levels, and writes
// nothing. NewLog makes one. Loggers that Fields returns keep theirs in the same
// place. It is safe for concurrent use.
type Log struct {
	logger.Logger // for the methods that do not log
	fields        map[string]any
	kept          *kept
}

// kept is what a Log and those made from it share.
type kept struct {
	mu    sync.Mutex
	lines []Line
}

// Line is a line of a Log.
type Line struct {
	Level  logger.Level
	Text   string
	Fields map[string]any // nil: none
}

func (l Line) String() string { return fmt.Sprintf("%s %s %v", l.Level, l.Text, l.Fields) }

// NewLog returns a log without lines.
func NewLog() *Log { return &Log{Logger: Quiet(), kept: &kept{}} }

// Fields implements logger.Logger: like go-micro's own loggers it adds to the
// fields that there are.
func (l *Log) Fields(fields map[string]any) logger.Logger {
	all := maps.Clone(l.fields)
	if all == nil {
		all = map[string]any{}
	}
	maps.Copy(all, fields)
	return &Log{Logger: l.Logger, fields: all, kept: l.kept}
}

// Log implements logger.Logger.
func (l *Log) Log(level logger.Level, v ...any) {
	l.kept.mu.Lock()
	defer l.kept.mu.Unlock()
	l.kept.lines = append(l.kept.lines, Line{level, fmt.Sprint(v...), l.fields})
}

// Logf implements logger.Logger.
func (l *Log) Logf(level logger.Level, format string, v ...any) {
	l.Log(level, fmt.Sprintf(format, v...))
}

// Lines returns the lines so far.
func (l *Log) Lines() []Line {
	return l.where(func(Line) bool { return true })
}

// With returns the lines so far that have a text in them, fields aside.
func (l *Log) With(text string) []Line {
	return l.where(func(line Line) bool { return strings.Contains(line.Text, text) })
}

// AtLeast returns the lines so far that are of a level or of a more serious one.
func (l *Log) AtLeast(level logger.Level) []Line {
	return l.where(func(line Line) bool { return line.Level >= level })
}

// Text returns the lines so far with their levels and fields, one below the
// other.
func (l *Log) Text() string {
	var text strings.Builder
	for _, line := range l.Lines() {
		fmt.Fprintln(&text, line)
	}
	return text.String()
}

func (l *Log) where(holds func(Line) bool) (lines []Line) {
	l.kept.mu.Lock()
	defer l.kept.mu.Unlock()
	for _, line := range l.kept.lines {
		if holds(line) {
			lines = append(lines, line)
		}
	}
	return lines
}
