package natstest

import "regexp"

// refusedSubs are subscriptions that a Proxy keeps from the server.
type refusedSubs struct {
	subjects map[string]string   // of each subscription that has passed, by its number
	refused  map[string]struct{} // subjects
}

var subLine = regexp.MustCompile(`(?m)^SUB (\S+) .*?(\d+)\r\n`)

// tooManySubs is what the server answers when the limit is reached.
const tooManySubs = "-ERR 'maximum subscriptions exceeded'\r\n"

// filter takes the refused subscriptions out of what a client sends, and answers them.
func (r *refusedSubs) filter(c *proxied, data []byte) []byte {
	return subLine.ReplaceAllFunc(data, func(line []byte) []byte {
		parts := subLine.FindSubmatch(line)
		subject, number := string(parts[1]), string(parts[2])
		if r.subjects == nil {
			r.subjects = make(map[string]string)
		}
		r.subjects[number] = subject
		if _, refused := r.refused[subject]; !refused {
			return line
		}
		_, _ = c.client.Write([]byte(tooManySubs))
		return nil
	})
}

// RefuseSub refuses a subscription as a server does where there are too many, until
// AdmitSubs: the one that the client has made as its n-th, counted from 1, and what it
// subscribes to the same subject later. The server is not asked. The subscription that
// there is stays, until the client comes back after a Cut.
func (p *Proxy) RefuseSub(n string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.subs.refused = map[string]struct{}{p.subs.subjects[n]: {}}
}

// AdmitSubs ends RefuseSub.
func (p *Proxy) AdmitSubs() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.subs.refused = nil
}
