package natstest

import "strings"

// LogLines is a writer for the handler of a slog.Logger, which writes one line at
// a time. Its capacity is how many lines it keeps until they are taken.
type LogLines chan string

// Write keeps a line.
func (l LogLines) Write(p []byte) (int, error) {
	l <- string(p)
	return len(p), nil
}

// Take returns the lines with the part, and forgets all.
func (l LogLines) Take(part string) (found []string) {
	for {
		select {
		case line := <-l:
			if strings.Contains(line, part) {
				found = append(found, line)
			}
		default:
			return found
		}
	}
}
