package metrics

import (
	"fmt"
	"os"
	"time"

	"go-micro.dev/v5/logger"
)

// sayTimeout is how long questions wait for the logger.
const sayTimeout = time.Second

// say writes a line to the user's logger, on a goroutine of its own: a logger that panics
// would end the process, and one that hangs would end the questions. Each line is said
// once, so few of these goroutines can hang.
func say(log logger.Logger, line string) {
	written := make(chan struct{})
	go func() {
		defer close(written)
		defer func() {
			if p := recover(); p != nil {
				fmt.Fprintf(os.Stderr, "metrics: the logger panicked: %v; its line was: %s\n", p, line)
			}
		}()
		log.Log(logger.WarnLevel, line)
	}()
	timer := time.NewTimer(sayTimeout)
	defer timer.Stop()
	select {
	case <-written:
	case <-timer.C:
	}
}
