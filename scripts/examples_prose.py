"""The longer texts of the examples, all our own: headings and paragraphs, and how they break."""

from scripts.examples_drawing import SANS, SANS_BOLD

ARTICLE_LEFT = (
    ("1  Introduction", """A rain gauge is a bucket with a ruler. Its weakness is the ruler: a
     drizzle of half a millimetre is thinner than the line that marks it. Weighing the bucket
     instead removes the eye from the measurement. Kitchen scales that resolve one gram are
     cheap, sealed against flour, and patient."""),
    (None, """We asked a modest question: does such a scale, left outdoors for a season, agree
     with a tipping gauge to within the error that the tipping gauge claims for itself?"""),
    ("2  Method", """A steel pan of 600 square centimetres stood on the scale under a frame of
     wire mesh that kept leaves out. Every minute a small computer read the mass. Rain of height
     h raises the mass m of the water in a pan of area A, so that"""),
)  # fmt: skip
ARTICLE_RIGHT = (
    (None, """Evaporation lowers the mass between showers. We fitted its rate over each dry hour
     and added the loss back, which changed the seasonal total by less than four per cent."""),
    ("3  Results", """In 92 days the scale recorded 211.4 mm and the tipping gauge 205.9 mm. The
     difference of 2.7 per cent lies within the five per cent stated by the maker of the gauge.
     On days with less than 1 mm the scale saw rain 14 times where the gauge saw none; on each of
     them a neighbour had noticed drizzle."""),
    (None, """Wind was the main source of noise. Gusts above eight metres a second moved the
     reading by up to six grams, which a median over five minutes removed."""),
    ("4  Conclusion", """A kitchen scale is a good rain gauge for anyone who can give it a level
     stone and a dry cable. It is most useful where the ordinary gauge is blind, in light rain."""),
)  # fmt: skip

LEAFLET = (
    (
        ("Welcome", """The Ellery Lighthouse Museum keeps the lamp, the logbooks and the kitchen of
         a light that was tended by hand until 1971. This leaflet says in five languages how to
         visit it. The stairs have 183 steps; there is no lift."""),
        ("Opening times", """The tower closes when the wind is above force 8. Tickets are sold at
         the gate, and the last climb begins forty minutes before closing."""),
    ),
    (
        ("Bienvenue", """Le musée du phare d'Ellery conserve la lampe, les journaux de bord et la
         cuisine d'un phare entretenu à la main jusqu'en 1971. L'escalier compte 183 marches ;
         prenez votre temps, et gardez la main sur la rampe. Les élèves entrent gratuitement."""),
        ("Willkommen", """Das Leuchtturmmuseum zeigt die Lampe, die Tagebücher und die Küche eines
         Leuchtfeuers, das bis 1971 von Hand gepflegt wurde. Die Treppe hat 183 Stufen. Größere
         Taschen bleiben bitte im Wärterhaus; Hunde dürfen bis zum Fuß des Turmes mit."""),
    ),
    (
        ("Bienvenidos", """El museo del faro guarda la lámpara, los cuadernos y la cocina de una
         luz que se cuidó a mano hasta 1971. La escalera tiene 183 peldaños. ¿Viene con niños?
         Pregunte en la taquilla por el cuaderno de dibujos del señor Ibáñez."""),
        ("Välkommen", """Fyrmuseet bevarar lampan, loggböckerna och köket från en fyr som sköttes
         för hand till 1971. Trappan har 183 steg. Från översta våningen ser man på klara dagar
         ända till öarna i söder; ta gärna med kikare."""),
    ),
)  # fmt: skip

LETTER = """\
Keeper's house, Ellery Light
19 November 1958

To the Harbour Office, Port Ellery

Dear Sirs,

I beg to report that the lamp was out from ten
minutes past four until half past four on the
morning of the 17th. A gull had broken pane 6 of
the lantern and the draught put out the mantle.
The spare was fitted and the pane boarded up.

Please send:

    2 panes, 61 by 48 cm
    1 dozen mantles, size C
    putty, 2 kg

The boat may land at the north steps on any day
with the wind west of south.

Your obedient servant,

A. Marrow, keeper
"""

TITLE_SLIDE = (  # baseline, text, font, size
    (130.0, "Repairing the", SANS_BOLD, 72.0),
    (212.0, "North Steps", SANS_BOLD, 72.0),
    (304.0, "A plan for the harbour wall", SANS, 44.0),
    (360.0, "of Port Ellery, in three parts", SANS, 44.0),
    (448.0, "Meeting of 12 May 2026, 7 pm", SANS, 44.0),
    (504.0, "Town hall, upper room", SANS, 44.0),
)
SLIDE = (
    "What we will do",
    "Drain the inner basin in June",
    "Lift and number 240 stones",
    "Pour a new base of concrete",
    "Set the stones back by hand",
    "Open the steps on 1 October",
)
NOTICE = (
    "Ferry Timetable",
    "Boats leave from the east pier",
    "Monday to Friday: 7:30 and 16:45",
    "Saturday: 9:15, 12:00 and 18:20",
    "No boats on Sunday",
    "Tickets: 4 euros, children free",
    "Dogs must be kept on a lead",
)
