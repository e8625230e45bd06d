package asset

import "time"

// Later is where messages of a stream wait until they are due: in a companion, a
// WorkQueue stream that holds the schedules and what is due. The stream sources from
// there what is due. Schedules cannot be in the stream itself: the server refuses
// them next to DiscardNew and next to sources, an Interest stream does not keep
// them, and the limits of the stream would remove them.
//
// A stream of others may hold its schedules itself, if its owner wants it so. Streams
// of this module do where the server cannot do the above.
type Later struct {
	Stream *Stream // has the schedules
	Direct bool    // it is the topic's own stream
	MaxMsg int     // bytes that the topic's stream accepts as a message; 0: no limit
	// MaxWait is for how long a message can wait, because the stream then removes it; 0: no limit
	MaxWait time.Duration

	Checked time.Time // when somebody has looked
}
