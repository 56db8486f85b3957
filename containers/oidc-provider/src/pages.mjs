// The pages that people see: self-contained, without scripts but for the one that sends the sign-out form.

import { createHash } from 'node:crypto';

const SUBMIT = "document.querySelector('form').submit()";

/** The Content-Security-Policy: the pages may use only their own style and the script above. */
export const POLICY = [
  "default-src 'none'",
  "style-src 'unsafe-inline'",
  `script-src 'sha256-${createHash('sha256').update(SUBMIT).digest('base64')}'`,
  "frame-ancestors 'none'",
].join('; ');

const STYLE = `
:root { color-scheme: light dark; --line: #c9ced6; --soft: #5b6470; --accent: #b34700; --card: #fff; --page: #f3f4f6; }
@media (prefers-color-scheme: dark) {
  :root { --line: #454c57; --soft: #a5adb9; --accent: #ff9a4d; --card: #1e2228; --page: #14171b; }
}
* { box-sizing: border-box; }
body { margin: 0; min-height: 100vh; display: grid; place-items: center; padding: 1.5rem; background: var(--page);
  font: 1rem/1.5 system-ui, sans-serif; }
main { width: 100%; max-width: 26rem; padding: 2rem; background: var(--card); border: 1px solid var(--line);
  border-radius: .75rem; }
h1 { margin: 0 0 .25rem; font-size: 1.5rem; line-height: 1.2; }
h2 { margin: 1.75rem 0 .5rem; font-size: 1rem; }
p { margin: .25rem 0 1rem; }
.soft { color: var(--soft); font-size: .875rem; }
.note { padding: .6rem .8rem; border-left: .25rem solid var(--accent); background: var(--page); font-size: .875rem; }
ul { list-style: none; margin: 0; padding: 0; display: grid; gap: .5rem; }
button, input { font: inherit; border-radius: .5rem; border: 1px solid var(--line); padding: .6rem .8rem; }
button, a.button { cursor: pointer; color: inherit; background: transparent; }
button:hover { border-color: var(--accent); }
:focus-visible { outline: .2rem solid var(--accent); outline-offset: .1rem; }
li button { width: 100%; text-align: left; display: flex; justify-content: space-between; gap: 1rem; align-items: baseline; }
li span { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
label { display: block; font-size: .875rem; margin-bottom: .25rem; }
.row { display: flex; gap: .5rem; } .row input { flex: 1; min-width: 0; }
`;

const PASSWORD = `<p><label for="password">Password (<code>invoke status</code> says where it is)</label>
<input id="password" name="password" type="password" required autofocus autocomplete="current-password"></p>`;

/** Return `text` escaped for HTML. */
export function escape(text) {
  return String(text).replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
}

function page(title, body) {
  return `<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escape(title)}</title>
<style>${STYLE}</style>
</head>
<body>
<main>
<h1>${escape(title)}</h1>
${body}
</main>
</body>
</html>
`;
}

/** The log-in page. `users`: each user's projects; `asks`: whether to ask for the password; `problem`: an error. */
export function logIn(users, platform, asks, problem) {
  const buttons = [...users].map(([user, projects]) => `<li><button name="login" value="${escape(user)}">
<strong>${escape(user)}</strong> <span class="soft">${escape(projects.join(', '))}</span></button></li>`);
  const whoever = asks ? 'Whoever knows its password' : 'It asks for no password: whoever can open this page';
  return page('Choose a user', `
<p class="note">This provider is for development. ${whoever} can be anybody.</p>
<form method="post">
${problem ? `<p class="note" role="alert">${escape(problem)}</p>` : ''}
${asks ? PASSWORD : ''}
<ul>${buttons.join('\n')}</ul>
<h2>Somebody else</h2>
<label for="other">Any other short name, of a person without a project on ${escape(platform)}</label>
<div class="row"><input id="other" name="other" maxlength="32" autocomplete="off" autocapitalize="none"
 spellcheck="false"><button>Sign in</button></div>
</form>`);
}

/** A page that submits `form` by a script, or by its button where scripts are off. */
export function logOut(form) {
  const filled = form.replace('</form>', '<input type="hidden" name="logout" value="yes"><button autofocus>Sign out</button></form>');
  return page('Signing out', `${filled}<script>${SUBMIT}</script>`);
}

/** A page with a `message` and a link to `home`. */
export function message(title, text, home) {
  return page(title, `<p>${escape(text)}</p><p><a href="${escape(home)}">Go to JupyterHub</a></p>`);
}
