// The page of the assistant: no framework, nothing from elsewhere. Whatever comes from the service is put into the page
// as text; markdown becomes elements that are made here one by one, never markup.

const byId = (id) => document.getElementById(id)
const messages = byId("messages")
const welcome = byId("welcome")
const form = byId("form")
const question = byId("question")
const send = byId("send")
const stop = byId("stop")
const notice = byId("notice")
const announcer = byId("announcer")

const sessionKey = "underlay.assistant.session"
const themeKey = "underlay.assistant.theme"

const store = {
  get: (key) => {
    try {
      return localStorage.getItem(key)
    } catch {
      return null
    }
  },
  set: (key, value) => {
    try {
      if (value === null) localStorage.removeItem(key)
      else localStorage.setItem(key, value)
    } catch {
      // without storage a reload begins a new conversation, nothing else
    }
  }
}

/** An element with a class and children; text is text. */
const make = (tag, className, ...children) => {
  const element = document.createElement(tag)
  if (className) element.className = className
  element.append(...children)
  return element
}

// ---------------------------------------------------------------------------------------------------------------------
// Markdown: paragraphs, lists, code, bold, italic, headings, citations
// ---------------------------------------------------------------------------------------------------------------------

const inlinePattern =
  /(`+)([^`]|[^`][\s\S]*?[^`])\1(?!`)|\*\*([\s\S]+?)\*\*|(?<![\w_])_([^_\n]+?)_(?![\w_])|(?<!\*)\*([^*\s][^*\n]*?)\*(?!\*)|\[(\d{1,2}(?:\s*,\s*\d{1,2})*)\]/g

const inline = (text, cite) => {
  const nodes = []
  let last = 0
  for (const match of text.matchAll(inlinePattern)) {
    if (match.index > last) nodes.push(text.slice(last, match.index))
    last = match.index + match[0].length
    if (match[2] !== undefined) nodes.push(make("code", "", match[2].trim() === "" ? match[2] : match[2].trim()))
    else if (match[3] !== undefined) nodes.push(make("strong", "", ...inline(match[3], cite)))
    else if (match[4] !== undefined) nodes.push(make("em", "", ...inline(match[4], cite)))
    else if (match[5] !== undefined) nodes.push(make("em", "", ...inline(match[5], cite)))
    else for (const one of match[6].split(",")) nodes.push(cite(Number(one)) ?? `[${one.trim()}]`)
  }
  if (last < text.length) nodes.push(text.slice(last))
  return nodes
}

const itemPattern = /^(\s*)([-*+]|\d{1,3}[.)])\s+(.*)$/

const markdown = (text, cite) => {
  const root = document.createDocumentFragment()
  const lines = text.replaceAll("\r\n", "\n").split("\n")
  let at = 0
  const paragraph = []
  const close = () => {
    if (paragraph.length > 0) root.append(make("p", "", ...inline(paragraph.splice(0).join("\n"), cite)))
  }
  while (at < lines.length) {
    const line = lines[at]
    const fence = /^\s*(```+|~~~+)/.exec(line)
    if (fence) {
      close()
      const code = []
      at++
      while (at < lines.length && !lines[at].trimStart().startsWith(fence[1])) code.push(lines[at++])
      at++
      const block = make("pre", "", make("code", "", code.join("\n")))
      block.tabIndex = 0
      root.append(block)
      continue
    }
    const item = itemPattern.exec(line)
    if (item && (paragraph.length === 0 || item[1] === "")) {
      close()
      const ordered = /\d/.test(item[2])
      const list = make(ordered ? "ol" : "ul", "")
      if (ordered) list.start = Number.parseInt(item[2], 10)
      while (at < lines.length) {
        const next = itemPattern.exec(lines[at])
        if (!next || /\d/.test(next[2]) !== ordered) break
        const words = [next[3]]
        at++
        while (at < lines.length && /^\s+\S/.test(lines[at]) && !itemPattern.test(lines[at]))
          words.push(lines[at++].trim())
        const entry = make("li", "", ...inline(words.join("\n"), cite))
        if (ordered) entry.value = Number.parseInt(next[2], 10)
        list.append(entry)
        while (at + 1 < lines.length && lines[at].trim() === "" && itemPattern.test(lines[at + 1])) at++
      }
      root.append(list)
      continue
    }
    const heading = /^#{1,6}\s+(.*)$/.exec(line)
    if (heading) {
      close()
      root.append(make("h3", "", ...inline(heading[1], cite)))
    } else if (line.trim() === "") close()
    else paragraph.push(line)
    at++
  }
  close()
  return root
}

// ---------------------------------------------------------------------------------------------------------------------
// Messages
// ---------------------------------------------------------------------------------------------------------------------

const toEnd = () => window.scrollTo({ top: document.documentElement.scrollHeight })

/** Follows an answer down while it grows, until its question has reached the top: a long one is read from its beginning. */
const follower = (asked) => {
  let following = true
  let last = window.scrollY
  return () => {
    // The reader has scrolled up: the page stays where they are.
    if (window.scrollY < last - 4) following = false
    if (!following) return
    const header = document.querySelector("header")
    const covered = getComputedStyle(header).position === "sticky" ? header.offsetHeight : 0
    const start = asked.getBoundingClientRect().top + window.scrollY - covered - 16
    window.scrollTo({ top: Math.max(0, Math.min(start, document.documentElement.scrollHeight - window.innerHeight)) })
    last = window.scrollY
  }
}

const showUser = (text) => {
  const element = make("li", "user", text)
  messages.append(element)
  welcome.hidden = true
  return element
}

/** Text as it is read aloud: without the signs of markdown and the numbers of sources. */
const spoken = (text) => text.replaceAll(/```\w*|[*`#]|(?<!\w)_|_(?!\w)| ?\[\d{1,2}(?:\s*,\s*\d{1,2})*\]/g, "").trim()

const announce = (text) => {
  const words = spoken(text)
  if (words !== "") announcer.append(make("p", "", words))
}

/** An answer on the page; what arrives is put into it. */
const showAnswer = (follow = () => {}) => {
  const status = make("p", "status", "")
  const body = make("div", "text")
  const element = make("li", "assistant busy", status, body)
  messages.append(element)
  let text = ""
  let sources = []
  const places = new Map()
  let due = false
  let told = 0

  const cite = (number) => {
    const source = sources.find((one) => one.number === number)
    if (source === undefined) return undefined
    const button = make("button", "cite", String(number))
    button.type = "button"
    button.title = `${source.title}: ${source.heading}`
    button.setAttribute("aria-label", `Source ${number}: ${source.title}, ${source.heading}`)
    button.addEventListener("click", () => {
      const place = places.get(number)
      if (place === undefined) return
      place.open = true
      place.scrollIntoView({ block: "center" })
      place.querySelector("summary").focus()
    })
    return button
  }
  const draw = () => {
    due = false
    body.replaceChildren(markdown(text, cite))
    follow()
  }
  const listSources = () => {
    if (sources.length === 0) return
    const part = make("section", "sources", make("h3", "", "Sources"))
    let list
    let runbook
    for (const source of sources) {
      if (source.runbook !== runbook) {
        runbook = source.runbook
        list = make("ol", "")
        const title = make("p", "runbook", source.title)
        if (source.role === "related") title.append(" ", make("span", "role", "related"))
        part.append(title, list)
      }
      const details = make(
        "details",
        "",
        make("summary", "", make("span", "number", `[${source.number}]`), make("span", "", source.heading))
      )
      details.addEventListener(
        "toggle",
        () =>
          details.append(
            make(
              "div",
              "section text",
              markdown(source.text, () => undefined)
            )
          ),
        { once: true }
      )
      places.set(source.number, details)
      list.append(make("li", "source", details))
    }
    element.append(part)
  }
  return {
    element,
    status: (message) => {
      status.textContent = message
    },
    remark: (message) => {
      body.before(make("p", "remark", message))
      announce(message)
    },
    sources: (found) => {
      sources = found
    },
    delta: (piece) => {
      text += piece
      // Whole paragraphs are told as they are complete; pieces of words would be noise.
      const end = text.lastIndexOf("\n\n")
      if (end > told) {
        announce(text.slice(told, end))
        told = end
      }
      if (!due) {
        due = true
        requestAnimationFrame(draw)
      }
    },
    end: ({ answerer, finish, model } = {}) => {
      draw()
      status.remove()
      element.classList.remove("busy")
      listSources()
      if (finish === "length")
        body.after(make("p", "remark", "The answer was cut here: it reached its greatest length."))
      if (finish === "refused")
        body.after(make("p", "remark", "The model did not go on: its provider refused the rest."))
      // The local answerer says so in its text.
      if (answerer && answerer !== "local") element.append(make("p", "by", `Answered by ${answerer}, ${model}.`))
    },
    tellRest: () => {
      announce(text.slice(told))
      told = text.length
    },
    fail: (message, again) => {
      draw()
      status.remove()
      element.classList.remove("busy")
      const failed = make("div", "failed", make("span", "", message))
      failed.setAttribute("role", "alert")
      if (again) {
        const button = make("button", "", "Ask again")
        button.type = "button"
        button.addEventListener("click", () => {
          failed.remove()
          again()
        })
        failed.append(button)
      }
      element.append(failed)
      follow()
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// The service
// ---------------------------------------------------------------------------------------------------------------------

class Failure extends Error {
  constructor(message, status) {
    super(message)
    this.status = status
  }
}

const call = async (path, options = {}) => {
  let response
  try {
    response = await fetch(path, options)
  } catch (error) {
    if (error.name === "AbortError") throw error
    throw new Failure("The assistant cannot be reached. It may be restarting.", 0)
  }
  if (response.ok) return response
  const body = await response.json().catch(() => ({}))
  throw new Failure(body.message ?? `The assistant answered with status ${response.status}.`, response.status)
}

const openSession = async () => {
  const { id } = await (await call("/api/sessions", { method: "POST" })).json()
  store.set(sessionKey, id)
  return id
}

/** The events of a stream of server-sent events, as they arrive. */
async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader()
  let buffer = ""
  for (;;) {
    const { done, value } = await reader.read()
    if (done) return
    buffer += value
    for (let end = buffer.indexOf("\n\n"); end >= 0; end = buffer.indexOf("\n\n")) {
      const data = buffer
        .slice(0, end)
        .split("\n")
        .filter((line) => line.startsWith("data:"))
        .map((line) => line.slice(5).trimStart())
        .join("\n")
      buffer = buffer.slice(end + 2)
      if (data !== "") yield JSON.parse(data)
    }
  }
}

let running

const busy = (is) => {
  send.hidden = is
  stop.hidden = !is
}

const pause = (millis) => new Promise((resolve) => setTimeout(resolve, millis))

/**
 * A session that has expired is replaced by a new one, once. One whose last answer was stopped just now may take a moment to
 * notice.
 */
const request = async (text, signal) => {
  const post = async (id) => {
    for (let left = 5; ; left--) {
      try {
        return await postOnce(id)
      } catch (error) {
        if (error.status !== 409 || left === 0) throw error
        await pause(200)
      }
    }
  }
  const postOnce = (id) =>
    call(`/api/sessions/${id}/ask`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ question: text }),
      signal
    })
  const known = store.get(sessionKey)
  if (known === null) return post(await openSession())
  try {
    return await post(known)
  } catch (error) {
    if (error.status !== 404) throw error
    return post(await openSession())
  }
}

const answerTo = async (text, asked) => {
  const follow = follower(asked)
  const answer = showAnswer(follow)
  const again = () => {
    answer.element.remove()
    answerTo(text, asked)
  }
  announcer.replaceChildren()
  announce("Asking")
  answer.status("Asking")
  follow()
  const controller = new AbortController()
  running = controller
  busy(true)
  let ended = false
  try {
    for await (const event of eventsOf(await request(text, controller.signal))) {
      switch (event._tag) {
        case "status":
          if (event.phase === "notice") answer.remark(event.message)
          else answer.status(event.message)
          break
        case "sources":
          answer.sources(event.sources)
          break
        case "delta":
          answer.delta(event.text)
          break
        case "done":
          ended = true
          answer.end(event.kind === "answer" || event.kind === "unsure" ? event : {})
          answer.tellRest()
          announce(count(event.cited?.length ?? 0))
          break
        case "error":
          ended = true
          answer.fail(event.message, event.retryable ? again : undefined)
          break
      }
    }
    if (!ended) answer.fail("The connection ended before the answer did.", again)
  } catch (error) {
    if (error.name === "AbortError") answer.fail("Stopped. This answer is not kept.", again)
    else answer.fail(error instanceof Failure ? error.message : "The connection ended before the answer did.", again)
  } finally {
    if (running === controller) {
      running = undefined
      busy(false)
      keepFocus()
    }
    refreshParts()
  }
}

const count = (cited) =>
  cited === 0
    ? "The answer is complete."
    : `The answer is complete. It cites ${cited} ${cited === 1 ? "source" : "sources"}.`

/** A button that has gone takes the focus with it: it goes back to the question, where there is no keyboard to pop up. */
const keepFocus = () => {
  const lost = document.activeElement === document.body || document.activeElement?.closest("[hidden]")
  if (lost && matchMedia("(hover: hover)").matches) question.focus({ preventScroll: true })
}

const ask = (text) => {
  const trimmed = text.trim()
  if (trimmed === "" || running !== undefined) return
  notice.hidden = true
  const asked = showUser(trimmed)
  question.value = ""
  grow()
  answerTo(trimmed, asked)
  keepFocus()
}

const restore = async () => {
  const id = store.get(sessionKey)
  if (id === null) return
  try {
    const { messages: said } = await (await call(`/api/sessions/${encodeURIComponent(id)}/history`)).json()
    for (const message of said) {
      if (message.role === "user") {
        showUser(message.text)
        continue
      }
      const answer = showAnswer()
      answer.sources(message.sources)
      answer.delta(message.text)
      answer.end(message.sources.length > 0 ? message : {})
    }
    toEnd()
  } catch (error) {
    if (error.status === 404 || error.status === 400) store.set(sessionKey, null)
    else {
      notice.textContent = `The conversation cannot be shown now. ${error.message}`
      notice.hidden = false
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// The strip of parts, and the examples
// ---------------------------------------------------------------------------------------------------------------------

const partsList = byId("parts")

const partElement = (part, open) => {
  const mode = part.status === "up" ? part.mode : `${part.mode}, ${part.status}`
  const details = make(
    "details",
    "",
    make(
      "summary",
      "head",
      make("span", "line", make("span", "dot"), make("span", "name", part.name), " ", make("span", "mode", mode)),
      " ",
      make("span", "what", part.what)
    ),
    make(
      "div",
      "more",
      make("p", "", part.address ? `${part.what} at ${part.address}.` : `${part.what}.`),
      ...(part.switch ? [make("p", "", "For a real one: ", make("code", "", part.switch))] : [])
    )
  )
  // One is open at a time.
  details.name = "parts"
  details.open = open
  const element = make("li", `part ${part.mode} ${part.status === "up" ? "" : part.status}`, details)
  element.dataset.part = part.name
  element.dataset.status = part.status
  return element
}

let shownParts = ""

const refreshParts = async () => {
  let parts
  try {
    const report = await (await call("/api/parts")).json()
    parts = report.parts
    showExamples(report.runbooks)
  } catch {
    parts = [{ name: "assistant", mode: "real", what: "The assistant cannot be reached", status: "down" }]
  }
  const state = JSON.stringify(parts)
  if (state === shownParts) return
  shownParts = state
  const open = new Set(Array.from(partsList.querySelectorAll("details[open]"), (one) => one.parentElement.dataset.part))
  partsList.replaceChildren(...parts.map((part) => partElement(part, open.has(part.name))))
}

const exampleQuestions = {
  "redis-connection-refused": "Redis refuses connections since the last deploy",
  "postgres-too-many-connections": "FATAL: sorry, too many clients already",
  "disk-full": "No space left on device on the log server",
  "certificate-expiry": "Browsers say that our certificate has expired",
  "oom-kills": "A container is killed with exit code 137",
  "stuck-deploy": "The rollout does not finish, old pods stay"
}

const showExamples = (runbooks) => {
  const list = byId("examples")
  if (list.childElementCount > 0) return
  const known = runbooks.filter((runbook) => runbook.id in exampleQuestions)
  const shown = known.length > 0 ? known : runbooks
  for (const runbook of shown.slice(0, 6)) {
    const button = make("button", "", exampleQuestions[runbook.id] ?? runbook.title)
    button.type = "button"
    button.addEventListener("click", () => ask(button.textContent))
    list.append(make("li", "", button))
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Controls
// ---------------------------------------------------------------------------------------------------------------------

const grow = () => {
  question.style.height = "auto"
  question.style.height = `${question.scrollHeight + 2}px`
}

form.addEventListener("submit", (event) => {
  event.preventDefault()
  ask(question.value)
})

question.addEventListener("input", grow)
question.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault()
    form.requestSubmit()
  }
})

stop.addEventListener("click", () => running?.abort())

const closeParts = () => {
  for (const one of partsList.querySelectorAll("details[open]")) one.open = false
}
document.addEventListener("click", (event) => {
  if (!partsList.contains(event.target)) closeParts()
})
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return
  const open = partsList.querySelector("details[open] summary")
  closeParts()
  if (open?.parentElement.contains(document.activeElement)) open.focus()
})

byId("fresh").addEventListener("click", () => {
  running?.abort()
  store.set(sessionKey, null)
  messages.replaceChildren()
  announcer.replaceChildren()
  notice.hidden = true
  welcome.hidden = false
  question.focus()
})

const themeButton = byId("theme")
const dark = matchMedia("(prefers-color-scheme: dark)")
const isDark = () => (document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark"
const showTheme = () => {
  themeButton.replaceChildren(isDark() ? "Light" : "Dark", make("span", "hidden", " theme"))
}
const kept = store.get(themeKey)
if (kept === "light" || kept === "dark") document.documentElement.dataset.theme = kept
showTheme()
dark.addEventListener("change", showTheme)
themeButton.addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark"
  store.set(themeKey, document.documentElement.dataset.theme)
  showTheme()
})

busy(false)
await Promise.all([refreshParts(), restore()])
document.documentElement.dataset.ready = "true"
setInterval(() => {
  if (document.visibilityState === "visible") refreshParts()
}, 5000)
