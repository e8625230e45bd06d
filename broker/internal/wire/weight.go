package wire

import "github.com/nats-io/nats.go"

// perValue is about what a header takes in memory beside its bytes: its place in the map,
// a slice, and the strings' own headers.
const perValue = 128

// Weight returns about how many bytes of memory a message takes. A message of many short
// headers weighs far more than it has bytes on the wire.
func Weight(m *nats.Msg) int {
	n := m.Size()
	for _, values := range m.Header {
		n += perValue * max(len(values), 1)
	}
	return n
}
